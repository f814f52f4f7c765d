//! Tests of CAs and rotations with several replicas that share an API server.

use std::time::UNIX_EPOCH;

use kermode_identity::{Phase, Schedule};
use kermode_k8s::controller::recorder::EventRecorder;
use kermode_model::DEFAULT_CLOCK_TOLERANCE;
use kube::runtime::watcher;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use serde_json::json;

use super::rotation::{CaSettings, RotationController};
use super::*;
use crate::testing::ApiServer;

const NAMESPACE: &str = "kong-mesh-system";
/// Lifetime of workload certificates, from which the durations of the phases follow.
const CERTIFICATE_LIFETIME: Duration = Duration::from_hours(1);
/// Time limit of a wait. A test that waits longer fails.
const TEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Value of the rotation annotation of a Mesh.
const REQUEST: &str = "request-1";
/// Secret of the first CA, with its key and certificate.
const FIRST_SECRET: &str = "default.ca-builtin-key-ca-1";
/// Secret with only the certificate of the first CA.
const FIRST_CERTIFICATE_SECRET: &str = "default.ca-builtin-cert-ca-1";
/// Secret of the second CA, with its key, certificate and schedule.
const SECOND_SECRET: &str = "default.ca-builtin-rotation-ca-1.2";

/// A replica of the control plane.
struct Replica {
    authorities: Authorities,
    controller: RotationController,
}

impl Replica {
    fn new(api_server: &ApiServer) -> Self {
        let authorities =
            Authorities::new(api_server.client(), NAMESPACE.to_owned(), DEFAULT_CLOCK_TOLERANCE);
        let controller = RotationController {
            authorities: authorities.clone(),
            metrics: Metrics::default(),
            events: EventRecorder::start(api_server.client(), None),
            settings: HashMap::new(),
            reported_phases: HashMap::new(),
        };
        Self {
            authorities,
            controller,
        }
    }

    async fn plan(&self) -> anyhow::Result<Arc<RotationPlan>> {
        self.authorities.get(&mesh(), "ca-1").await
    }

    /// Applies a Mesh whose rotation annotation has the value `request`, then reconciles.
    async fn reconcile(&mut self, request: Option<&str>) {
        let settings = CaSettings {
            backend: "ca-1".to_owned(),
            certificate_lifetime: CERTIFICATE_LIFETIME,
            rotation_request: request.map(str::to_owned),
            uid: None,
        };
        self.controller.set_settings(&mesh(), Some(settings));
        self.controller.reconcile_all().await;
    }

    /// Invalidates the cache as the watch of Secrets does.
    async fn invalidate_cache(&self) {
        self.authorities.invalidate_all().await;
    }

    /// Returns the names and labels of the gauges of CAs.
    fn exported_gauges(&self) -> Vec<String> {
        let mut registry = Registry::default();
        self.controller.metrics.register(&mut registry);
        let mut text = String::new();
        encode(&mut text, &registry).expect("the metrics can be encoded");
        let gauges = text
            .lines()
            .filter(|line| line.starts_with("mesh_ca_") && line.contains("backend="));
        gauges
            .map(|line| line.rsplit_once(' ').map_or(line, |(name, _)| name).to_owned())
            .collect()
    }

    fn roots(&self) -> Arc<RootsUpdate> {
        let roots = self.authorities.roots(&mesh(), "ca-1").borrow().clone();
        roots.expect("roots are published")
    }
}

/// Duration of a phase of a rotation, plus one second.
fn phase_duration() -> Duration {
    let schedule = Schedule::generated_at(UNIX_EPOCH, Term::of(CERTIFICATE_LIFETIME));
    let phase = schedule.signs_from.duration_since(UNIX_EPOCH);
    phase.expect("a time after the epoch") + Duration::from_secs(1)
}

fn mesh() -> MeshName {
    MeshName::from("default")
}

fn generation_numbers(plan: &RotationPlan) -> Vec<u32> {
    let generations = plan.generations();
    generations.iter().map(|generation| generation.number).collect()
}

fn newest_root(plan: &RotationPlan) -> Vec<u8> {
    plan.newest().authority.certificate().to_vec()
}

#[tokio::test]
async fn replicas_that_start_together_share_one_ca() {
    let api_server = ApiServer::default();
    let replicas: Vec<_> = (0..3).map(|_| Replica::new(&api_server)).collect();
    let plans = futures::future::join_all(replicas.iter().map(Replica::plan)).await;
    let roots: Vec<_> = plans
        .into_iter()
        .map(|plan| newest_root(&plan.expect("a CA")))
        .collect();
    assert!(roots.iter().all(|root| *root == roots[0]));
    assert_eq!(
        api_server.secret_names(),
        [FIRST_CERTIFICATE_SECRET, FIRST_SECRET]
    );
}

#[tokio::test]
async fn every_secret_of_a_mesh_is_owned_by_the_mesh() {
    let api_server = ApiServer::default();
    let mut replica = Replica::new(&api_server);
    replica.reconcile(None).await;
    replica.reconcile(Some(REQUEST)).await;
    let names = [FIRST_CERTIFICATE_SECRET, FIRST_SECRET, SECOND_SECRET];
    assert_eq!(api_server.secret_names(), names);
    for secret in api_server.secrets().values() {
        assert_eq!(
            secret["metadata"]["ownerReferences"],
            json!([{"apiVersion": "kuma.io/v1alpha1", "kind": "Mesh", "name": "default", "uid": "uid-of-mesh"}]),
        );
    }
}

#[tokio::test]
async fn gauges_of_a_ca_are_removed_with_the_mesh() {
    let api_server = ApiServer::default();
    let mut replica = Replica::new(&api_server);
    replica.reconcile(None).await;
    replica.reconcile(Some(REQUEST)).await;
    let gauges = replica.exported_gauges();
    let expiry = |generation: u32| {
        format!(
            "mesh_ca_expiry_timestamp_seconds{{mesh=\"default\",backend=\"ca-1\",generation=\"{generation}\"}}"
        )
    };
    assert!(
        gauges.contains(&expiry(1)) && gauges.contains(&expiry(2)),
        "{gauges:#?}"
    );
    replica.controller.set_settings(&mesh(), None);
    assert_eq!(replica.exported_gauges(), Vec::<String>::new());
}

#[tokio::test]
async fn ca_of_a_deleted_mesh_is_neither_created_nor_restored() {
    let api_server = ApiServer::default();
    let replica = Replica::new(&api_server);
    replica.plan().await.expect("a CA");
    // Kubernetes deletes the Secrets of a deleted Mesh, because the Mesh owns them.
    api_server.delete_mesh();
    api_server.secrets().clear();
    replica.invalidate_cache().await;
    let _ = replica.plan().await;
    assert_eq!(api_server.secret_names(), Vec::<String>::new());
    let error = Replica::new(&api_server).plan().await.expect_err("no Mesh");
    assert!(
        format!("{error:#}").contains("Mesh default does not exist"),
        "{error:#}"
    );
}

#[tokio::test]
async fn rotation_goes_through_its_phases_on_every_replica() {
    let api_server = ApiServer::default();
    let mut replicas = [Replica::new(&api_server), Replica::new(&api_server)];
    for replica in &mut replicas {
        replica.reconcile(None).await;
        assert_eq!((replica.roots().roots_der.len(), replica.roots().signer), (1, 1));
    }
    let old_root = replicas[0].roots().roots_der[0].clone();

    for replica in &mut replicas {
        replica.reconcile(Some(REQUEST)).await;
    }
    // Number of roots, and number of the generation that signs, in each phase.
    for (root_count, signer) in [(2, 1), (2, 2), (1, 2)] {
        for replica in &mut replicas {
            replica.invalidate_cache().await;
            replica.reconcile(Some(REQUEST)).await;
            let roots = replica.roots();
            assert_eq!((roots.roots_der.len(), roots.signer), (root_count, signer));
            assert_eq!(roots.roots_der.contains(&old_root), root_count == 2);
        }
        assert_eq!(replicas[0].roots(), replicas[1].roots());
        api_server.backdate_schedule(SECOND_SECRET, phase_duration());
    }
    assert_eq!(
        api_server.secret_names(),
        [FIRST_CERTIFICATE_SECRET, FIRST_SECRET, SECOND_SECRET],
        "only one replica starts the rotation"
    );

    // The Secret of the old CA may be deleted and is not restored.
    api_server.delete_secret(FIRST_SECRET);
    for replica in &mut replicas {
        replica.invalidate_cache().await;
        replica.reconcile(Some(REQUEST)).await;
        assert_eq!(generation_numbers(&replica.plan().await.expect("a CA")), [2]);
    }
    assert_eq!(
        api_server.secret_names(),
        [FIRST_CERTIFICATE_SECRET, SECOND_SECRET]
    );
    assert_eq!(
        generation_numbers(&Replica::new(&api_server).plan().await.expect("a CA")),
        [2]
    );
}

#[tokio::test]
async fn only_the_replica_that_starts_a_rotation_writes_events_about_the_mesh() {
    let api_server = ApiServer::default();
    let mut replicas = [Replica::new(&api_server), Replica::new(&api_server)];
    replicas[0].reconcile(None).await;
    replicas[0].reconcile(Some(REQUEST)).await;
    replicas[1].reconcile(Some(REQUEST)).await;
    api_server.backdate_schedule(SECOND_SECRET, phase_duration());
    for replica in &mut replicas {
        replica.invalidate_cache().await;
        replica.reconcile(Some(REQUEST)).await;
    }
    let events_written = async {
        while api_server.events().len() < 2 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(TEST_TIMEOUT, events_written)
        .await
        .expect("two Events");
    let events = api_server.events();
    let reasons: Vec<_> = events.iter().map(|event| event["reason"].clone()).collect();
    assert_eq!(reasons, ["CARotationStarted", "CARotationSigning"]);
    assert!(
        events.iter().all(|event| event["regarding"]["kind"] == "Mesh"),
        "{events:?}"
    );
}

#[tokio::test]
async fn replicas_that_start_a_rotation_at_once_share_one_new_ca() {
    let api_server = ApiServer::default();
    let mut replicas: Vec<_> = (0..3).map(|_| Replica::new(&api_server)).collect();
    for replica in &mut replicas {
        replica.reconcile(None).await;
    }
    futures::future::join_all(
        replicas
            .iter_mut()
            .map(|replica| replica.reconcile(Some(REQUEST))),
    )
    .await;
    let plans = futures::future::join_all(replicas.iter().map(Replica::plan)).await;
    let plans: Vec<_> = plans.into_iter().map(|plan| plan.expect("CAs")).collect();
    for plan in &plans {
        assert_eq!(generation_numbers(plan), [1, 2]);
        assert_eq!(newest_root(plan), newest_root(&plans[0]));
        assert_eq!(plan.newest().schedule, plans[0].newest().schedule);
    }
}

#[tokio::test]
async fn request_made_before_the_first_ca_was_created_starts_no_rotation() {
    let api_server = ApiServer::default();
    Replica::new(&api_server).reconcile(Some(REQUEST)).await;
    assert_eq!(
        api_server.secret_names(),
        [FIRST_CERTIFICATE_SECRET, FIRST_SECRET]
    );
    Replica::new(&api_server).reconcile(Some(REQUEST)).await;
    assert_eq!(
        api_server.secret_names(),
        [FIRST_CERTIFICATE_SECRET, FIRST_SECRET]
    );
}

#[tokio::test]
async fn deleting_the_secret_of_a_ca_that_does_not_sign_yet_cancels_the_rotation() {
    let api_server = ApiServer::default();
    let mut replica = Replica::new(&api_server);
    replica.reconcile(None).await;
    replica.reconcile(Some(REQUEST)).await;
    api_server.delete_secret(SECOND_SECRET);
    replica.invalidate_cache().await;
    replica.reconcile(None).await;
    assert_eq!(generation_numbers(&replica.plan().await.expect("a CA")), [1]);
    assert_eq!(
        api_server.secret_names(),
        [FIRST_CERTIFICATE_SECRET, FIRST_SECRET]
    );
}

#[tokio::test]
async fn deleted_secret_of_a_ca_in_use_is_restored() {
    let api_server = ApiServer::default();
    let mut replica = Replica::new(&api_server);
    replica.reconcile(None).await;
    replica.reconcile(Some(REQUEST)).await;
    api_server.backdate_schedule(SECOND_SECRET, phase_duration());
    replica.invalidate_cache().await;
    let before = replica.plan().await.expect("CAs");
    assert_eq!(before.phase(SystemTime::now()), Phase::Reissuing);
    for name in [FIRST_SECRET, SECOND_SECRET] {
        let data = api_server.delete_secret(name)["data"].take();
        replica.invalidate_cache().await;
        replica.plan().await.expect("CAs");
        assert_eq!(api_server.secrets()[name]["data"], data, "{name}");
    }
}

#[tokio::test]
async fn lost_key_is_not_replaced_by_a_new_ca() {
    let api_server = ApiServer::default();
    Replica::new(&api_server).plan().await.expect("a CA");
    api_server.delete_secret(FIRST_SECRET);
    let error = Replica::new(&api_server)
        .plan()
        .await
        .expect_err("the key is lost");
    assert!(error.to_string().contains("restore it from a backup"), "{error}");
}

#[tokio::test]
async fn cached_ca_is_used_for_a_limited_time_when_secrets_cannot_be_read() {
    let api_server = ApiServer::default();
    let replica = Replica::new(&api_server);
    replica.plan().await.expect("a CA");
    api_server.set_failing(true);
    let backend = replica.authorities.backend(&BackendId::new(&mesh(), "ca-1"));
    let set_cache_age = async |age: Duration| {
        let mut cache = backend.cache.lock().await;
        let read_at = Instant::now().checked_sub(age).expect("an uptime above the age");
        cache.current_as_of = Some(read_at);
        cache.last_read_at = Some(read_at);
        cache.failed_at = None;
    };
    set_cache_age(MAX_STALENESS / 2).await;
    replica.plan().await.expect("the cached CA");
    set_cache_age(MAX_STALENESS).await;
    let error = replica.plan().await.expect_err("the cache is stale");
    // "no route" is the error of the failing API server.
    assert!(format!("{error:#}").contains("no route"), "{error:#}");
    let error = replica.plan().await.expect_err("the read has just failed");
    assert!(error.to_string().contains("just failed"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn errors_of_a_watch_do_not_delay_the_next_change() {
    let mut controller = Replica::new(&ApiServer::default()).controller;
    let interval = Duration::from_secs(1);
    let mut errors = Box::pin(futures::stream::unfold((), |()| async move {
        tokio::time::sleep(interval).await;
        Some((Err(watcher::Error::NoResourceVersion), ()))
    }));
    let start = tokio::time::Instant::now();
    let pause = 10 * interval;
    let mut secrets = futures::stream::pending();
    let mut listed = Vec::new();
    let waited = controller.wait_until_due(&mut secrets, &mut errors, &mut listed, start + pause);
    tokio::time::timeout(2 * pause, waited)
        .await
        .expect("the wait ends at the next change");
    assert_eq!(start.elapsed(), pause);
}
