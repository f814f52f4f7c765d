//! Tests of elections on a simulated API server with one Lease and a paused clock.

use std::sync::Arc;

use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use kube::client::Body;
use parking_lot::Mutex;
use prometheus_client::encoding::text::encode;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::*;

/// Minimum time without a leader after the holder is disconnected: [`LEASE_DURATION`] minus [`RENEW_DEADLINE`], minus
/// a margin of 10 ms, because tokio's timers round each pause up to a millisecond.
const MIN_GAP: Duration = Duration::from_millis(4990);

/// Simulated API server with one Lease.
#[derive(Clone, Default)]
struct LeaseServer(Arc<Mutex<LeaseState>>);

#[derive(Default)]
struct LeaseState {
    lease: Option<Value>,
    version: u64,
}

/// Network link between a replica and the API server.
#[derive(Clone, Default)]
struct Link(Arc<Mutex<Delay>>);

/// Delays of a link, per message.
#[derive(Clone, Copy, Default)]
struct Delay {
    request: Duration,
    response: Duration,
}

impl LeaseServer {
    fn client(&self, link: &Link) -> Client {
        let (server, link) = (self.clone(), link.clone());
        let service = tower::service_fn(move |request: Request<Body>| {
            let (server, link) = (server.clone(), link.clone());
            async move {
                let delay = *link.0.lock();
                sleep(delay.request).await;
                let (parts, body) = request.into_parts();
                let body = body.collect().await?.to_bytes();
                let (status, object) = server.respond(&parts.method, &body);
                sleep(delay.response).await;
                let response = Response::builder().status(status);
                Ok::<_, kube::Error>(
                    response
                        .body(Body::from(object.to_string().into_bytes()))
                        .unwrap(),
                )
            }
        });
        Client::new(service, "system")
    }

    fn respond(&self, method: &Method, body: &[u8]) -> (StatusCode, Value) {
        let mut state = self.0.lock();
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

    /// Writes the Lease as if another replica had renewed it.
    fn renew_as_other(&self, renew_time: &str, lease_duration_seconds: i32) {
        let spec = json!({"holderIdentity": "other", "renewTime": renew_time, "leaseDurationSeconds": lease_duration_seconds, "leaseTransitions": 7});
        let mut state = self.0.lock();
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
        self.0.lock().lease.as_ref().unwrap()["spec"].clone()
    }

    /// Starts a candidate. Returns its link to the API server, whether it leads, and its task.
    fn start_candidate(&self, name: &str) -> (Link, watch::Receiver<bool>, tokio::task::JoinHandle<()>) {
        let link = Link::default();
        let candidate = Candidate::new(self.client(&link), "system", "leader", name.to_owned());
        let (leader_sender, is_leader) = watch::channel(false);
        let task = tokio::spawn(candidate.run(leader_sender, std::future::pending()));
        (link, is_leader, task)
    }
}

impl Link {
    fn set_delay(&self, request: Duration, response: Duration) {
        *self.0.lock() = Delay { request, response };
    }

    /// Delays all requests beyond the end of the test.
    fn disconnect(&self) {
        self.set_delay(Duration::from_hours(1), Duration::ZERO);
    }
}

/// Waits until `is_leader` has the value `expected`. Returns the time at the end of the wait.
async fn wait_for_leading(is_leader: &mut watch::Receiver<bool>, expected: bool) -> Instant {
    is_leader
        .wait_for(|is_leader| *is_leader == expected)
        .await
        .unwrap();
    Instant::now()
}

/// Asserts that the first replica stops leading at least [`MIN_GAP`] before the second replica leads.
async fn assert_gap(first: &mut watch::Receiver<bool>, second: &mut watch::Receiver<bool>) {
    let stopped = wait_for_leading(first, false).await;
    assert!(!*second.borrow());
    let started = wait_for_leading(second, true).await;
    let gap = started - stopped;
    assert!(gap >= MIN_GAP, "gap between two leaders: {gap:?}");
}

#[tokio::test(start_paused = true)]
async fn first_candidate_leads_without_a_transition() {
    let server = LeaseServer::default();
    let (_link, mut is_leader, task) = server.start_candidate("a");
    wait_for_leading(&mut is_leader, true).await;
    assert_eq!(server.spec()["leaseTransitions"], 0);
    sleep(Duration::from_mins(1)).await;
    assert_eq!(
        server.spec()["leaseTransitions"],
        0,
        "a renewal must not count as a transition"
    );
    assert!(*is_leader.borrow());
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn holder_that_no_longer_renews_is_replaced_regardless_of_its_clock() {
    for renew_time in ["2999-01-01T00:00:00.000000Z", "1999-01-01T00:00:00.000000Z"] {
        let server = LeaseServer::default();
        server.renew_as_other(renew_time, i32::MAX);
        let start = Instant::now();
        let (_link, mut is_leader, task) = server.start_candidate("a");
        let waited = wait_for_leading(&mut is_leader, true).await - start;
        assert!(
            waited >= LEASE_DURATION && waited <= LEASE_DURATION + 2 * RETRY_PERIOD,
            "{renew_time}: {waited:?}"
        );
        assert_eq!(server.spec()["leaseTransitions"], 8);
        assert_eq!(server.spec()["holderIdentity"], "a");
        task.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn holder_that_renews_keeps_the_lease_regardless_of_its_clock() {
    let server = LeaseServer::default();
    server.renew_as_other("2999-01-01T00:00:00.000000Z", 1);
    let (_link, is_leader, task) = server.start_candidate("a");
    // The clock of the holder runs backwards.
    for minute in (0..60).rev() {
        server.renew_as_other(&format!("1999-01-01T00:{minute:02}:00.000000Z"), 1);
        sleep(RENEW_DEADLINE).await;
        assert_eq!(server.spec()["holderIdentity"], "other");
        // `has_changed` also reports a leadership that began and ended between two checks.
        let has_led = is_leader.has_changed().expect("the candidate runs");
        assert!(!has_led, "the candidate led although the holder renews the Lease");
    }
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn disconnected_holder_stops_leading_before_another_replica_leads() {
    for millis in (0..4000).step_by(250) {
        let server = LeaseServer::default();
        let (link, mut first, first_task) = server.start_candidate("a");
        wait_for_leading(&mut first, true).await;
        let (_link, mut second, second_task) = server.start_candidate("b");
        sleep(Duration::from_millis(10_000 + millis)).await;
        link.disconnect();
        assert_gap(&mut first, &mut second).await;
        first_task.abort();
        second_task.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn delayed_response_does_not_extend_leadership() {
    let server = LeaseServer::default();
    let (link, mut first, first_task) = server.start_candidate("a");
    wait_for_leading(&mut first, true).await;
    // The second replica reads the Lease soon after the first replica has written it.
    sleep(Duration::from_millis(500)).await;
    let (_link, mut second, second_task) = server.start_candidate("b");
    sleep(Duration::from_millis(8500)).await;
    // Each response is delayed by 2.4 s. Then the link is disconnected.
    link.set_delay(Duration::ZERO, Duration::from_millis(2400));
    sleep(Duration::from_millis(7200)).await;
    link.disconnect();
    assert_gap(&mut first, &mut second).await;
    first_task.abort();
    second_task.abort();
}

#[tokio::test(start_paused = true)]
async fn released_lease_is_acquired_at_once() {
    let server = LeaseServer::default();
    let link = Link::default();
    let candidate = Candidate::new(server.client(&link), "system", "leader", "a".to_owned());
    let mut registry = Registry::default();
    candidate.register(&mut registry);
    let leads_by_metric = || {
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        text.contains("\nleader 1\n")
    };
    let (leader_sender, mut is_leader) = watch::channel(false);
    let (finish, finished) = tokio::sync::oneshot::channel::<()>();
    let task = tokio::spawn(candidate.run(leader_sender, async move {
        let _ = finished.await;
    }));
    wait_for_leading(&mut is_leader, true).await;
    assert!(leads_by_metric());
    finish.send(()).unwrap();
    task.await.unwrap();
    assert!(!leads_by_metric());
    let (_link, mut is_leader, task) = server.start_candidate("b");
    let start = Instant::now();
    assert!(wait_for_leading(&mut is_leader, true).await - start < RETRY_PERIOD);
    assert_eq!(server.spec()["leaseTransitions"], 1);
    task.abort();
}
