//! Elections on an API server of one object, with a clock that only the tests move.

use std::sync::{Arc, Mutex};

use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::*;

/// For how long nobody leads at least after a holder was cut off: 15 s less 10 s, less the clock's grain.
const MARGIN: Duration = Duration::from_millis(4990);

/// The API server: one Lease, and how long it takes to answer whom.
#[derive(Clone, Default)]
struct LeaseServer(Arc<Mutex<LeaseState>>);

#[derive(Default)]
struct LeaseState {
    lease: Option<Value>,
    version: u64,
}

/// How one replica reaches it.
#[derive(Clone, Default)]
struct Link(Arc<Mutex<Delay>>);

#[derive(Clone, Copy, Default)]
struct Delay {
    before: Duration,
    after: Duration,
}

impl LeaseServer {
    fn client(&self, link: &Link) -> Client {
        let (server, link) = (self.clone(), link.clone());
        let service = tower::service_fn(move |request: Request<Body>| {
            let (server, link) = (server.clone(), link.clone());
            async move {
                let delay = *link.0.lock().unwrap();
                sleep(delay.before).await;
                let (parts, body) = request.into_parts();
                let body = body.collect().await?.to_bytes();
                let (status, answer) = server.answer(&parts.method, &body);
                sleep(delay.after).await;
                let response = Response::builder().status(status);
                Ok::<_, kube::Error>(
                    response
                        .body(Body::from(answer.to_string().into_bytes()))
                        .unwrap(),
                )
            }
        });
        Client::new(service, "system")
    }

    fn answer(&self, method: &Method, body: &[u8]) -> (StatusCode, Value) {
        let mut state = self.0.lock().unwrap();
        let failure = |status: StatusCode, reason: &str| {
            let code = status.as_u16();
            (
                status,
                json!({"kind": "Status", "status": "Failure", "reason": reason, "code": code, "message": reason}),
            )
        };
        if *method == Method::GET {
            let lease = state.lease.clone();
            return lease.map_or_else(
                || failure(StatusCode::NOT_FOUND, "NotFound"),
                |lease| (StatusCode::OK, lease),
            );
        }
        let mut lease: Value = serde_json::from_slice(body).unwrap();
        let current = state
            .lease
            .as_ref()
            .map(|lease| lease["metadata"]["resourceVersion"].clone());
        if current.unwrap_or_default() != lease["metadata"]["resourceVersion"] {
            return failure(StatusCode::CONFLICT, "Conflict");
        }
        state.version += 1;
        lease["metadata"]["resourceVersion"] = state.version.to_string().into();
        state.lease = Some(lease.clone());
        (StatusCode::OK, lease)
    }

    /// Puts somebody else's lease there.
    fn foreign(&self, renewed: &str, duration: i32) {
        let spec = json!({"holderIdentity": "other", "renewTime": renewed, "leaseDurationSeconds": duration, "leaseTransitions": 7});
        let mut state = self.0.lock().unwrap();
        state.version += 1;
        let version = state.version.to_string();
        state.lease = Some(json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": "leader", "namespace": "system", "resourceVersion": version},
            "spec": spec,
        }));
    }

    fn spec(&self) -> Value {
        self.0.lock().unwrap().lease.as_ref().unwrap()["spec"].clone()
    }

    /// A replica in the election.
    fn candidate(&self, name: &str) -> (Link, watch::Receiver<bool>, tokio::task::JoinHandle<()>) {
        let link = Link::default();
        let candidate = Candidate::new(self.client(&link), "system", "leader", name.to_owned());
        let (leads, leading) = watch::channel(false);
        let task = tokio::spawn(candidate.run(leads, std::future::pending()));
        (link, leading, task)
    }
}

impl Link {
    fn set(&self, before: Duration, after: Duration) {
        *self.0.lock().unwrap() = Delay { before, after };
    }

    /// The network swallows what is sent.
    fn cut(&self) {
        self.set(Duration::from_hours(1), Duration::ZERO);
    }
}

async fn until(leading: &mut watch::Receiver<bool>, leads: bool) -> Instant {
    leading.wait_for(|leading| *leading == leads).await.unwrap();
    Instant::now()
}

#[tokio::test(start_paused = true)]
async fn the_first_one_leads_and_is_no_transition() {
    let server = LeaseServer::default();
    let (_link, mut leading, task) = server.candidate("a");
    until(&mut leading, true).await;
    assert_eq!(server.spec()["leaseTransitions"], 0);
    sleep(Duration::from_mins(1)).await;
    assert_eq!(server.spec()["leaseTransitions"], 0, "renewing is none either");
    assert!(*leading.borrow());
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_is_gone_is_replaced_whatever_its_clock_said() {
    for renewed in ["2999-01-01T00:00:00.000000Z", "1999-01-01T00:00:00.000000Z"] {
        let server = LeaseServer::default();
        server.foreign(renewed, i32::MAX);
        let start = Instant::now();
        let (_link, mut leading, task) = server.candidate("a");
        let waited = until(&mut leading, true).await - start;
        assert!(
            waited >= DURATION && waited <= DURATION + 2 * PERIOD,
            "{renewed}: {waited:?}"
        );
        assert_eq!(server.spec()["leaseTransitions"], 8);
        assert_eq!(server.spec()["holderIdentity"], "a");
        task.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_renews_keeps_it_whatever_its_clock_says() {
    let server = LeaseServer::default();
    // Its clock runs backwards, from the far future into the past.
    for minute in 0..60 {
        if minute == 0 {
            server.foreign("2999-01-01T00:00:00.000000Z", 1);
        }
        server.foreign(&format!("1999-01-01T00:{:02}:00.000000Z", 59 - minute), 1);
        if minute == 0 {
            let (_link, leading, _task) = server.candidate("a");
            tokio::spawn(async move {
                let mut leading = leading;
                until(&mut leading, true).await;
                panic!("it took a lease that is renewed");
            });
        }
        sleep(RENEW_DEADLINE).await;
        assert_eq!(server.spec()["holderIdentity"], "other");
    }
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_is_cut_off_stops_before_another_one_starts() {
    for millis in (0..4000).step_by(250) {
        let server = LeaseServer::default();
        let (link, mut first, one) = server.candidate("a");
        until(&mut first, true).await;
        let (_link, mut second, two) = server.candidate("b");
        sleep(Duration::from_millis(10_000 + millis)).await;
        link.cut();
        let stopped = until(&mut first, false).await;
        assert!(!*second.borrow());
        let started = until(&mut second, true).await;
        let gap = started - stopped;
        assert!(gap >= MARGIN, "{gap:?}");
        one.abort();
        two.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_took_long_does_not_prolong_the_lease() {
    let server = LeaseServer::default();
    let (link, mut first, one) = server.candidate("a");
    until(&mut first, true).await;
    // Looks at the lease soon after the first one writes it.
    sleep(Duration::from_millis(500)).await;
    let (_link, mut second, two) = server.candidate("b");
    sleep(Duration::from_millis(8500)).await;
    // The write goes through at once, the answer of each of the two calls takes 2.4 s; then nothing gets through.
    link.set(Duration::ZERO, Duration::from_millis(2400));
    sleep(Duration::from_millis(7200)).await;
    link.cut();
    let stopped = until(&mut first, false).await;
    let started = until(&mut second, true).await;
    let gap = started - stopped;
    assert!(gap >= MARGIN, "{gap:?}");
    one.abort();
    two.abort();
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_given_back_is_taken_at_once() {
    let server = LeaseServer::default();
    let link = Link::default();
    let candidate = Candidate::new(server.client(&link), "system", "leader", "a".to_owned());
    let (leads, mut leading) = watch::channel(false);
    let (finish, finished) = tokio::sync::oneshot::channel::<()>();
    let task = tokio::spawn(candidate.run(leads, async move {
        let _ = finished.await;
    }));
    until(&mut leading, true).await;
    finish.send(()).unwrap();
    task.await.unwrap();
    let (_link, mut leading, task) = server.candidate("b");
    let start = Instant::now();
    assert!(until(&mut leading, true).await - start < PERIOD);
    assert_eq!(server.spec()["leaseTransitions"], 1);
    task.abort();
}
