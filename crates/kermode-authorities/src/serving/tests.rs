//! Tests of the control plane's CA with several replicas that share an API server.

use kermode_model::DEFAULT_CLOCK_TOLERANCE;
use serde_json::json;

use super::*;
use crate::testing::ApiServer;

const NAMESPACE: &str = "kong-mesh-system";
/// Secret of the second CA.
const SECOND_SECRET: &str = "kuma-control-plane-ca.2";

/// A replica of the control plane.
struct Replica {
    identity: ServingIdentity,
    reports: RotationReports,
}

impl Replica {
    async fn start(api_server: &ApiServer) -> Self {
        let client = api_server.client();
        let names = vec!["localhost".to_owned()];
        let identity = ServingIdentity::load(&client, NAMESPACE, names, DEFAULT_CLOCK_TOLERANCE).await;
        Self {
            identity: identity.expect("a CA"),
            reports: RotationReports::new(
                Metrics::default(),
                EventRecorder::start(client, None),
                Expiries::default(),
            ),
        }
    }

    async fn reconcile(&mut self) -> Duration {
        let pause = self.identity.reconcile(&mut self.reports).await;
        pause.expect("the CA is reconciled")
    }

    /// Numbers of the generations whose roots are published, and of the one that has issued the certificate.
    fn state(&self) -> (Vec<u32>, u32) {
        let published = self.identity.roots().borrow().clone();
        let generations = self.identity.plan.generations();
        let is_published = |pem: &str| published.contains(pem);
        let roots = generations
            .iter()
            .filter(|generation| is_published(&generation.authority.certificate_pem()))
            .map(|generation| generation.number);
        let issuer = generations
            .iter()
            .find(|generation| *generation.authority.certificate() == self.identity.certificate.issuer);
        (roots.collect(), issuer.expect("an issuer").number)
    }
}

fn annotate(api_server: &ApiServer, request: &str) {
    let mut secrets = api_server.secrets();
    let secret = secrets.get_mut(CA_SECRET).expect("the Secret exists");
    secret["metadata"]["annotations"] = json!({"kuma.io/rotate-ca": request});
}

/// Lets the next phase of the rotation to the second CA begin.
fn start_next_phase(api_server: &ApiServer) {
    let term = Term {
        lifetime: DISTRIBUTION_TIME,
        clock_tolerance: DEFAULT_CLOCK_TOLERANCE,
    };
    let now = SystemTime::now();
    let phase = Schedule::generated_at(now, term).signs_from.duration_since(now);
    // The second is for the rounding to whole seconds.
    let phase = phase.expect("a phase") + Duration::from_secs(1);
    api_server.backdate_schedule(SECOND_SECRET, phase);
}

#[tokio::test]
async fn new_root_is_published_before_its_ca_signs_and_the_old_root_stays_until_the_end() {
    let api_server = ApiServer::default();
    let (mut first, mut second) = (
        Replica::start(&api_server).await,
        Replica::start(&api_server).await,
    );
    assert_eq!(first.reconcile().await, MAX_PAUSE);
    assert_eq!(first.state(), (vec![1], 1));
    annotate(&api_server, "request");
    for (expected, is_scheduled) in [
        ((vec![1, 2], 1), true),
        ((vec![1, 2], 2), true),
        ((vec![2], 2), false),
    ] {
        for replica in [&mut first, &mut second] {
            let pause = replica.reconcile().await;
            assert_eq!(replica.state(), expected);
            assert!(pause <= MAX_PAUSE);
        }
        if is_scheduled {
            start_next_phase(&api_server);
        }
    }
    let restarted = Replica::start(&api_server).await;
    assert_eq!(restarted.state(), (vec![2], 2));
    assert_eq!(api_server.secret_names(), [CA_SECRET, SECOND_SECRET]);
    // The annotation has not changed since, so it requests no further rotation.
    first.reconcile().await;
    assert_eq!(first.state(), (vec![2], 2));
    annotate(&api_server, "another request");
    first.reconcile().await;
    assert_eq!(first.state(), (vec![2, 3], 2));
}

#[tokio::test]
async fn events_about_the_secret_report_each_phase_once() {
    let api_server = ApiServer::default();
    let (mut first, mut second) = (
        Replica::start(&api_server).await,
        Replica::start(&api_server).await,
    );
    annotate(&api_server, "request");
    for _ in 0..3 {
        for _ in 0..2 {
            first.reconcile().await;
            second.reconcile().await;
        }
        start_next_phase(&api_server);
    }
    let expected = ["CARotationStarted", "CARotationSigning", "CARotationFinished"];
    let written = async {
        while api_server.events().len() < expected.len() {
            tokio::task::yield_now().await;
        }
    };
    let written = tokio::time::timeout(Duration::from_secs(30), written).await;
    let events = api_server.events();
    written.unwrap_or_else(|_| panic!("{events:?}"));
    let reasons: Vec<_> = events.iter().map(|event| event["reason"].clone()).collect();
    assert_eq!(reasons, expected);
    assert_eq!(events[0]["regarding"]["name"], CA_SECRET);
}

#[tokio::test]
async fn deleted_secret_is_restored_and_a_cancelled_rotation_is_not() {
    let api_server = ApiServer::default();
    let mut replica = Replica::start(&api_server).await;
    let original = api_server.delete_secret(CA_SECRET);
    replica.reconcile().await;
    assert_eq!(api_server.secrets()[CA_SECRET]["data"], original["data"]);
    annotate(&api_server, "request");
    replica.reconcile().await;
    // The user cancels the rotation: removes the annotation and the Secret of the new CA.
    annotate(&api_server, "");
    api_server.delete_secret(SECOND_SECRET);
    replica.reconcile().await;
    assert_eq!(replica.state(), (vec![1], 1));
    assert_eq!(api_server.secret_names(), [CA_SECRET]);
}

#[tokio::test]
async fn replica_follows_another_ca_in_the_secret_without_a_restart() {
    let api_server = ApiServer::default();
    let mut replica = Replica::start(&api_server).await;
    let other = ApiServer::default();
    let other_replica = Replica::start(&other).await;
    let secret = other.delete_secret(CA_SECRET);
    api_server.secrets().insert(CA_SECRET.to_owned(), secret);
    let before = replica.identity.certificate.issuer.clone();
    replica.reconcile().await;
    assert_eq!(replica.state(), (vec![1], 1));
    assert_ne!(replica.identity.certificate.issuer, before);
    assert_eq!(
        *replica.identity.roots().borrow(),
        *other_replica.identity.roots().borrow()
    );
}

#[tokio::test]
async fn damaged_secret_and_unreachable_api_server_keep_the_ca() {
    let api_server = ApiServer::default();
    let mut replica = Replica::start(&api_server).await;
    api_server
        .secrets()
        .get_mut(CA_SECRET)
        .expect("the Secret exists")["data"] = json!({});
    let error = replica.identity.reconcile(&mut replica.reports).await;
    let error = format!("{:#}", error.expect_err("the Secret is damaged"));
    assert!(error.contains(CA_SECRET) && error.contains("ca.crt"), "{error}");
    assert_eq!(replica.state(), (vec![1], 1));
    api_server.set_failing(true);
    replica
        .identity
        .reconcile(&mut replica.reports)
        .await
        .expect_err("the API server cannot be reached");
    assert_eq!(replica.state(), (vec![1], 1));
}
