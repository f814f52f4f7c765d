//! Writes Dataplanes: reconciles the Dataplanes of the API server (the observed state) with the Dataplanes of the index
//! (the desired state).
//!
//! Only the leader writes, and only if the states differ. Writes use server-side apply, with one field manager for
//! Dataplanes and another for their statuses. Manual edits and deletions are reverted when the watch reports them.
//! Nothing is written until both states are complete, because a Pod that is not listed yet would look like a deleted
//! Pod.

mod inbounds_status;
mod meshes;
mod metrics;
mod observed;
mod queue;
mod reconcile;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use kermode_crds::Dataplane;
use kermode_model::{MeshName, ObjectKey};
use kube::core::{ApiResource, DynamicObject};
use kube::runtime::watcher::watcher;
use kube::{Api, Client};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use self::meshes::WaitingForMesh;
use self::queue::Queue;
use self::reconcile::RetryAfter;
use super::recorder::EventRecorder;
use super::status::StatusWriter;
use super::watch::{Conversion, Update, follow, watch_config};

pub use self::metrics::{Metrics, WriteResult};
pub use self::observed::ObservedDataplane;

/// Field manager of Dataplanes.
pub const FIELD_MANAGER: &str = "kuma-cp";
/// Field manager of the leader's part of the status.
const STATUS_MANAGER: &str = "kuma-cp-inbounds";
/// Maximum number of concurrent writes. Limits the load on the API server.
const MAX_CONCURRENT_WRITES: usize = 16;
/// Maximum number of status writes per second. Limits the load on the API server.
const MAX_STATUS_WRITES_PER_SECOND: u32 = 100;

/// The Dataplane that must exist for a Pod.
#[derive(Clone, Debug, PartialEq)]
pub struct DesiredDataplane {
    /// The Dataplane.
    pub dataplane: Arc<kermode_model::Dataplane>,
    /// UID of the Pod that owns the Dataplane.
    pub pod_uid: Arc<str>,
}

/// Source of the desired state.
pub trait DesiredSource: Send + Sync + 'static {
    /// Returns the desired Dataplane; `None` if it must not exist.
    fn desired(&self, key: &ObjectKey) -> Option<DesiredDataplane>;
    /// Returns the keys of all desired Dataplanes.
    fn keys(&self) -> Vec<ObjectKey>;
    /// Whether a namespace is being deleted. The API server creates no objects in a terminating namespace.
    fn is_terminating(&self, namespace: &str) -> bool;
    /// Whether a Mesh exists. A Dataplane is not written while its Mesh is missing.
    fn mesh_exists(&self, mesh: &MeshName) -> bool;
}

/// Handle of the writer; cheap to clone. [`Writer::watch`] and [`Writer::run`] must each be called once.
#[derive(Clone)]
pub struct Writer {
    inner: Arc<WriterInner>,
}

struct WriterInner {
    client: Client,
    source: Box<dyn DesiredSource>,
    events: EventRecorder,
    /// Dataplanes to reconcile.
    queue: Queue,
    /// Observed state of each Dataplane in the API server.
    observed: Mutex<HashMap<ObjectKey, ObservedDataplane>>,
    /// For each Dataplane, the number of consecutive attempts that failed because the API server rejected the Dataplane
    /// or because its Mesh was missing.
    rejections: Mutex<HashMap<ObjectKey, u32>>,
    /// Dataplanes that are not written because their Mesh is missing.
    waiting_for_mesh: WaitingForMesh,
    /// Writes the leader's part of the status.
    status: StatusWriter,
    metrics: Metrics,
    completeness: watch::Sender<Completeness>,
}

/// Whether the desired and the observed state are complete.
#[derive(Clone, Copy, Debug, Default)]
struct Completeness {
    is_desired_complete: bool,
    is_observed_complete: bool,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

// === impl Writer ===

impl Writer {
    /// Creates a writer without observed state.
    pub fn new(client: Client, source: impl DesiredSource, events: EventRecorder, metrics: Metrics) -> Self {
        Self {
            inner: Arc::new(WriterInner {
                client,
                source: Box::new(source),
                events,
                queue: Queue::default(),
                observed: Mutex::default(),
                rejections: Mutex::default(),
                waiting_for_mesh: WaitingForMesh::default(),
                status: StatusWriter::new(STATUS_MANAGER, MAX_STATUS_WRITES_PER_SECOND),
                metrics,
                completeness: watch::Sender::default(),
            }),
        }
    }

    /// Returns the metrics.
    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    /// Reports that the desired state is complete, so that writing may start.
    pub fn set_desired_complete(&self) {
        self.inner
            .completeness
            .send_modify(|completeness| completeness.is_desired_complete = true);
    }

    /// Reports that the observed state is complete.
    fn set_observed_complete(&self) {
        self.inner
            .completeness
            .send_modify(|completeness| completeness.is_observed_complete = true);
    }

    /// Queues a Dataplane that may differ from its desired state.
    pub fn enqueue(&self, key: ObjectKey) {
        self.inner.queue.push(key);
    }

    /// After a delay, queues Dataplanes that may differ from their desired state.
    pub fn enqueue_later(&self, keys: Vec<ObjectKey>, delay: Duration) {
        if delay.is_zero() {
            self.enqueue_all(keys);
        } else if !keys.is_empty() {
            let writer = self.clone();
            tokio::spawn(async move {
                tokio::time::sleep(delay).await;
                writer.enqueue_all(keys);
            });
        }
    }

    fn enqueue_all(&self, keys: impl IntoIterator<Item = ObjectKey>) {
        for key in keys {
            self.enqueue(key);
        }
    }

    /// Queues the Dataplanes that wait for a Mesh. Must be called when a Mesh is created or changed.
    pub fn mesh_changed(&self, mesh: &MeshName) {
        for key in self.inner.waiting_for_mesh.take(mesh) {
            self.inner.queue.push(key);
        }
    }

    /// Updates the observed state of a Dataplane; `None` if it was deleted. Queues the Dataplane if the state changed.
    fn observe(&self, key: ObjectKey, observed: Option<ObservedDataplane>) {
        let has_changed = match observed {
            Some(observed) => self.inner.update_observed(&key, observed),
            None => self.inner.observed.lock().remove(&key).is_some(),
        };
        if has_changed {
            self.inner.queue.push(key);
        }
    }

    /// Watches Dataplanes until the future is dropped. Calls `on_deleted` for each deleted Dataplane, so that other
    /// writers of its status can write their parts again if the Dataplane is recreated.
    pub async fn watch(self, on_deleted: impl Fn(&ObjectKey)) {
        let resource = ApiResource::erase::<Dataplane>(&());
        let api = Api::<DynamicObject>::all_with(self.inner.client.clone(), &resource);
        let (sink, mut updates) = mpsc::channel(1024);
        let watching = follow(
            "dataplanes",
            watcher(api, watch_config()),
            |object: DynamicObject| Conversion::Keep(ObservedDataplane::new(&object)),
            |update| update,
            sink,
        );
        let observing = async {
            while let Some(update) = updates.recv().await {
                match update {
                    Update::Applied(key, observed) => self.observe(key, Some(observed)),
                    Update::Gone(key) => {
                        on_deleted(&key);
                        self.observe(key, None);
                    }
                    Update::Synced => self.set_observed_complete(),
                }
            }
        };
        futures::join!(watching, observing);
    }

    /// Writes Dataplanes and their statuses while `is_leader` is true, until the future or the sender of `is_leader` is
    /// dropped.
    pub async fn run(self, mut is_leader: watch::Receiver<bool>) {
        let mut completeness = self.inner.completeness.subscribe();
        loop {
            // `inner` holds the sender, so the wait cannot fail.
            let _ = completeness
                .wait_for(|completeness| {
                    completeness.is_desired_complete && completeness.is_observed_complete
                })
                .await;
            if is_leader.wait_for(|is_leader| *is_leader).await.is_err() {
                return;
            }
            self.inner.queue.requeue_cancelled();
            // The observed Dataplanes include undesired ones: a previous leader may have crashed before deleting them.
            let observed: Vec<_> = self.inner.observed.lock().keys().cloned().collect();
            self.enqueue_all(self.inner.source.keys().into_iter().chain(observed));
            let mut leadership = is_leader.clone();
            let WriterInner {
                client,
                status,
                metrics,
                ..
            } = &*self.inner;
            tokio::select! {
                _ = leadership.wait_for(|is_leader| !*is_leader) => {}
                () = self.reconcile_queued() => {}
                () = status.run(client.clone(), &*self.inner, metrics) => {}
            }
            status.clear();
        }
    }

    /// Reconciles queued Dataplanes, at most [`MAX_CONCURRENT_WRITES`] at a time, until the future is dropped.
    async fn reconcile_queued(&self) {
        let mut tasks = JoinSet::new();
        loop {
            let key = self.inner.queue.pop().await;
            if tasks.len() >= MAX_CONCURRENT_WRITES {
                tasks.join_next().await;
            }
            // Removes all other completed tasks from the set.
            while tasks.try_join_next().is_some() {}
            let inner = self.inner.clone();
            tasks.spawn(async move {
                let outcome = inner.reconcile(&key).await;
                inner.queue.done(&key);
                if let Err(RetryAfter(pause)) = outcome {
                    inner.retry_after(key, pause);
                }
            });
        }
    }
}

// === impl WriterInner ===

impl WriterInner {
    /// Stores the observed state of a Dataplane. Returns whether it has changed. A state that is older than the stored
    /// state is ignored, because the watch lags behind the responses to writes.
    fn update_observed(&self, key: &ObjectKey, observed: ObservedDataplane) -> bool {
        let mut stored_states = self.observed.lock();
        match stored_states.get_mut(key) {
            Some(stored) if stored.resource_version > observed.resource_version => false,
            Some(stored) => {
                let has_changed = stored.differs_from(&observed);
                *stored = observed;
                has_changed
            }
            None => {
                stored_states.insert(key.clone(), observed);
                true
            }
        }
    }

    /// Queues a key after a pause. During the pause, the key does not count towards the limit of concurrent writes.
    fn retry_after(self: Arc<Self>, key: ObjectKey, pause: Duration) {
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            self.queue.push(key);
        });
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::{Request, Response};
    use kube::client::Body;
    use tokio::time::Instant;

    use super::*;

    /// A source without Dataplanes.
    struct NoDataplanes;

    impl DesiredSource for NoDataplanes {
        fn desired(&self, _: &ObjectKey) -> Option<DesiredDataplane> {
            None
        }

        fn keys(&self) -> Vec<ObjectKey> {
            Vec::new()
        }

        fn is_terminating(&self, _: &str) -> bool {
            false
        }

        fn mesh_exists(&self, _: &MeshName) -> bool {
            true
        }
    }

    #[tokio::test(start_paused = true)]
    async fn keys_are_queued_after_their_delay() {
        type ApiResponse = Result<Response<Body>, Infallible>;
        let silent_server = tower::service_fn(|_: Request<Body>| std::future::pending::<ApiResponse>());
        let client = Client::new(silent_server, "default");
        let events = EventRecorder::start(client.clone(), None);
        let writer = Writer::new(client, NoDataplanes, events, Metrics::default());
        let key = |name| ObjectKey::new("shop", name);
        let (start, delay) = (Instant::now(), Duration::from_millis(30));
        writer.enqueue_later(vec![key("late-1"), key("late-2")], delay);
        writer.enqueue_later(vec![key("now")], Duration::ZERO);
        writer.enqueue_later(Vec::new(), delay);
        assert_eq!(writer.inner.queue.pop().await, key("now"));
        assert_eq!(start.elapsed(), Duration::ZERO);
        assert_eq!(writer.inner.queue.pop().await, key("late-1"));
        assert_eq!(writer.inner.queue.pop().await, key("late-2"));
        assert!(start.elapsed() >= delay);
    }
}
