//! Endpoints that the engine reports to the tracking of removals.

use kermode_model::Mesh;
use kermode_removals::{RemovalStatus, StreamAcknowledgements};

use super::*;

/// Engine after its first publication, and a client of the mesh that has applied all published changes.
struct PublishedEngine {
    engine: Engine,
    client: StreamAcknowledgements,
}

fn mesh() -> MeshName {
    MeshName::new("default")
}

fn key(pod: &str) -> ObjectKey {
    ObjectKey::new("demo", pod)
}

impl PublishedEngine {
    /// Starts an engine with a Service, and with these Pods of the Service.
    fn start(pods: Vec<WatchEvent>) -> Self {
        let mut engine = mk_engine(mk_client().0, watch::channel(false).1);
        let client = engine
            .removals
            .on_stream_opened(&ObjectKey::new("demo", "client"), &mesh());
        let mut startup = Some(Startup {
            sync: InitialSync::default(),
            readiness_guard: Readiness::default().register("engine"),
        });
        let default = Update::Applied(ObjectKey::new("", "default"), Mesh::new("default"));
        let mut batch = vec![
            ObjectUpdate::Mesh(default).into(),
            mk_service("web", json!([{"port": 80, "targetPort": 8080}])),
        ];
        batch.extend(pods);
        batch.extend(ends_of_lists());
        engine.on_batch(&mut startup, &mut batch, 0);
        assert!(startup.is_none());
        let mut published = Self { engine, client };
        published.acknowledge();
        published
    }

    /// Applies one update.
    fn apply(&mut self, event: WatchEvent) {
        self.engine.on_batch(&mut None, &mut vec![event], 0);
    }

    /// The client acknowledges all published changes.
    fn acknowledge(&mut self) {
        let sequence = self.engine.publisher.published_sequence(&mesh());
        self.client.acknowledge(Some(sequence));
    }

    fn status(&self, pod: &str) -> RemovalStatus {
        self.engine.removals.status(&key(pod))
    }
}

/// Makes the event of a Pod that is being deleted.
fn mk_terminating(name: &str, ip: &str) -> WatchEvent {
    let WatchEvent {
        update: ObjectUpdate::Pod(Update::Applied(key, mut pod)),
        ..
    } = mk_pod(name, ip)
    else {
        panic!("not a Pod");
    };
    pod.is_terminating = true;
    ObjectUpdate::Pod(Update::Applied(key, pod)).into()
}

fn mk_gone(name: &str) -> WatchEvent {
    ObjectUpdate::Pod(Update::Gone(key(name))).into()
}

#[tokio::test]
async fn endpoint_of_a_terminating_pod_is_removed_until_its_clients_have_applied_the_removal() {
    // One Pod is listed at the start, the other one comes later.
    let mut published = PublishedEngine::start(vec![mk_pod("listed", "10.0.0.1")]);
    published.apply(mk_pod("later", "10.0.0.2"));
    published.acknowledge();
    for (pod, ip) in [("listed", "10.0.0.1"), ("later", "10.0.0.2")] {
        assert_eq!(published.status(pod), RemovalStatus::NotRemoved);
        published.apply(mk_terminating(pod, ip));
        // The client has applied all earlier changes, but not the removal.
        assert_eq!(published.status(pod), RemovalStatus::Pending { proxies: 1 });
        published.acknowledge();
        assert!(matches!(
            published.status(pod),
            RemovalStatus::Acknowledged { .. }
        ));
        published.apply(mk_gone(pod));
        assert_eq!(
            published.status(pod),
            RemovalStatus::NotRemoved,
            "the Pod is gone"
        );
    }
    assert_eq!(published.engine.removals.open_removals(), []);
}

#[tokio::test]
async fn endpoint_of_a_pod_that_disappears_is_removed() {
    let mut published = PublishedEngine::start(vec![mk_pod("web", "10.0.0.1")]);
    published.apply(mk_gone("web"));
    assert_eq!(published.status("web"), RemovalStatus::Pending { proxies: 1 });
    published.acknowledge();
    assert_eq!(published.engine.removals.open_removals(), []);
}

#[tokio::test]
async fn proxy_of_a_deleted_pod_does_not_have_to_acknowledge_a_removal() {
    let mut published = PublishedEngine::start(vec![mk_pod("web", "10.0.0.1"), mk_pod("other", "10.0.0.2")]);
    let other = published.engine.removals.on_stream_opened(&key("other"), &mesh());
    published.apply(mk_terminating("web", "10.0.0.1"));
    published.acknowledge();
    assert_eq!(published.status("web"), RemovalStatus::Pending { proxies: 1 });
    published.apply(mk_gone("other"));
    drop(other);
    assert!(matches!(
        published.status("web"),
        RemovalStatus::Acknowledged { .. }
    ));
}
