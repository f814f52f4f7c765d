//! Writes Dataplanes: what the index wants on one side, what the API server has on the other.
//!
//! Only the leader writes, only when the two differ, and by server-side apply under our own field manager, so that
//! replicas never fight. What somebody edits or deletes by hand is put right when the watch tells of it. Nothing is
//! written before both sides are known as a whole: a Pod that has not been listed yet is not one that has gone.

mod counted;
mod meshes;
mod metrics;
mod observed;
mod queue;
mod reconcile;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kermode_crds::Dataplane;
use kermode_model::{MeshName, ObjectKey};
use kube::core::{ApiResource, DynamicObject};
use kube::runtime::watcher::watcher;
use kube::{Api, Client};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use self::meshes::WaitingForMesh;
use self::queue::Queue;
use self::reconcile::RetryAfter;
use super::recorder::Events;
use super::status::StatusWriter;
use super::watch::{Conversion, Update, follow, watch_config};

pub use self::metrics::{Metrics, WriteResult};
pub use self::observed::ObservedDataplane;

/// The field manager of our writes.
pub const FIELD_MANAGER: &str = "kuma-cp";
/// The field manager of the leader's part of the status.
const STATUS_MANAGER: &str = "kuma-cp-inbounds";
/// How many writes may be under way at once.
const CONCURRENCY: usize = 16;
/// How many statuses are written a second.
const STATUSES: u32 = 100;

/// A Dataplane as it should be.
#[derive(Clone, Debug, PartialEq)]
pub struct Desired {
    /// The Dataplane.
    pub dataplane: Arc<kermode_model::Dataplane>,
    /// UID of the Pod that owns it.
    pub pod_uid: Arc<str>,
}

/// Who knows what should be.
pub trait DesiredSource: Send + Sync + 'static {
    /// The Dataplane of that name as it should be; `None` when there should be none.
    fn desired(&self, key: &ObjectKey) -> Option<Desired>;
    /// The names of all that should be.
    fn keys(&self) -> Vec<ObjectKey>;
    /// Whether a namespace is being deleted, so that nothing can be made in it.
    fn is_terminating(&self, namespace: &str) -> bool;
    /// Whether there is such a Mesh. Without one the API server would refuse every Dataplane of it.
    fn mesh_exists(&self, mesh: &MeshName) -> bool;
}

/// The writer; cheap to clone. Call [`Writer::touch`] from anywhere, [`Writer::watch`] and [`Writer::run`] once.
#[derive(Clone)]
pub struct Writer {
    inner: Arc<WriterInner>,
}

struct WriterInner {
    client: Client,
    source: Box<dyn DesiredSource>,
    events: Events,
    queue: Queue,
    observed: Mutex<HashMap<ObjectKey, ObservedDataplane>>,
    refused: Mutex<HashMap<ObjectKey, u32>>,
    waiting: WaitingForMesh,
    status: StatusWriter,
    metrics: Metrics,
    known: watch::Sender<Completeness>,
}

/// Which sides are known as a whole.
#[derive(Clone, Copy, Debug, Default)]
struct Completeness {
    desired: bool,
    observed: bool,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

// === impl Writer ===

impl Writer {
    /// A writer that has observed nothing yet.
    pub fn new(client: Client, source: impl DesiredSource, events: Events, metrics: Metrics) -> Self {
        Self {
            inner: Arc::new(WriterInner {
                client,
                source: Box::new(source),
                events,
                queue: Queue::default(),
                observed: Mutex::default(),
                refused: Mutex::default(),
                waiting: WaitingForMesh::default(),
                status: StatusWriter::new(STATUS_MANAGER, STATUSES),
                metrics,
                known: watch::Sender::default(),
            }),
        }
    }

    /// Its counters.
    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    /// Says that the source knows of everything.
    pub fn desired_is_complete(&self) {
        self.inner.known.send_modify(|known| known.desired = true);
    }

    /// Says that everything the API server has has been observed.
    fn observed_is_complete(&self) {
        self.inner.known.send_modify(|known| known.observed = true);
    }

    /// Says that a Dataplane may differ from what it should be.
    pub fn touch(&self, key: ObjectKey) {
        self.inner.queue.push(key);
    }

    /// Says that Dataplanes may differ from what they should be, which nobody needs to look at before so long.
    pub fn touch_later(&self, keys: Vec<ObjectKey>, after: Duration) {
        if after.is_zero() {
            self.touch_all(keys);
        } else if !keys.is_empty() {
            let writer = self.clone();
            tokio::spawn(async move {
                tokio::time::sleep(after).await;
                writer.touch_all(keys);
            });
        }
    }

    fn touch_all(&self, keys: impl IntoIterator<Item = ObjectKey>) {
        for key in keys {
            self.touch(key);
        }
    }

    /// Says that a Mesh is there, or is another now: Dataplanes that wait for it are written.
    pub fn mesh_changed(&self, mesh: &MeshName) {
        for key in self.inner.waiting.take(mesh) {
            self.inner.queue.push(key);
        }
    }

    /// Says what the API server has; `None` when it has gone.
    fn observe(&self, key: ObjectKey, observed: Option<ObservedDataplane>) {
        let changed = match observed {
            Some(observed) => self.inner.remember(&key, observed),
            None => self.inner.observed().remove(&key).is_some(),
        };
        if changed {
            self.inner.queue.push(key);
        }
    }

    /// Watches what the API server has, until dropped, and says which Dataplanes have gone: what others had written onto
    /// them has gone too, also when they come back.
    pub async fn watch(self, gone: impl Fn(&ObjectKey)) {
        let resource = ApiResource::erase::<Dataplane>(&());
        let api = Api::<DynamicObject>::all_with(self.inner.client.clone(), &resource);
        let (sink, mut updates) = mpsc::channel(1024);
        let watch = follow(
            "dataplanes",
            watcher(api, watch_config()),
            |object: DynamicObject| Conversion::Keep(ObservedDataplane::new(&object)),
            |update| update,
            sink,
        );
        let observe = async {
            while let Some(update) = updates.recv().await {
                match update {
                    Update::Applied(key, observed) => self.observe(key, Some(observed)),
                    Update::Gone(key) => {
                        gone(&key);
                        self.observe(key, None);
                    }
                    Update::Synced => self.observed_is_complete(),
                }
            }
        };
        futures::join!(watch, observe);
    }

    /// Writes whenever `leading` says so, until dropped.
    pub async fn run(self, mut leading: watch::Receiver<bool>) {
        let mut known = self.inner.known.subscribe();
        loop {
            // The sender lives in `inner`, so the second wait cannot fail.
            let _ = known.wait_for(|known| known.desired && known.observed).await;
            if leading.wait_for(|leads| *leads).await.is_err() {
                return;
            }
            self.inner.queue.restart();
            // Those that should not be are among the observed: what a crash has left behind goes.
            let observed: Vec<_> = self.inner.observed().keys().cloned().collect();
            self.touch_all(self.inner.source.keys().into_iter().chain(observed));
            let mut stops = leading.clone();
            let WriterInner {
                client,
                status,
                metrics,
                ..
            } = &*self.inner;
            tokio::select! {
                _ = stops.wait_for(|leads| !*leads) => {}
                () = self.work() => {}
                () = status.run(client.clone(), &*self.inner, metrics) => {}
            }
            status.clear();
        }
    }

    async fn work(&self) {
        let mut tasks = JoinSet::new();
        loop {
            let key = self.inner.queue.pop().await;
            if tasks.len() >= CONCURRENCY {
                tasks.join_next().await;
            }
            while tasks.try_join_next().is_some() {}
            let inner = self.inner.clone();
            tasks.spawn(async move {
                let outcome = inner.reconcile(&key).await;
                inner.queue.done(&key);
                if let Err(RetryAfter(after)) = outcome {
                    inner.try_again(key, after);
                }
            });
        }
    }
}

// === impl WriterInner ===

impl WriterInner {
    fn observed(&self) -> std::sync::MutexGuard<'_, HashMap<ObjectKey, ObservedDataplane>> {
        self.observed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what is known of an object; says whether that is anything new. The watch lags behind the answers to our
    /// own writes: an older state is no news.
    fn remember(&self, key: &ObjectKey, observed: ObservedDataplane) -> bool {
        let mut all = self.observed();
        match all.get_mut(key) {
            Some(before) if before.version > observed.version => false,
            Some(before) => {
                let changed = (before.content, &before.status, before.generated)
                    != (observed.content, &observed.status, observed.generated);
                *before = observed;
                changed
            }
            None => {
                all.insert(key.clone(), observed);
                true
            }
        }
    }

    /// Without holding up a place among the writes meanwhile.
    fn try_again(self: Arc<Self>, key: ObjectKey, after: Duration) {
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
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

    /// Wants nothing.
    struct NoDataplanes;

    impl DesiredSource for NoDataplanes {
        fn desired(&self, _: &ObjectKey) -> Option<Desired> {
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
    async fn what_may_wait_waits_and_what_may_not_does_not() {
        type Answer = Result<Response<Body>, Infallible>;
        let silent = tower::service_fn(|_: Request<Body>| std::future::pending::<Answer>());
        let client = Client::new(silent, "default");
        let events = Events::start(client.clone(), None);
        let writer = Writer::new(client, NoDataplanes, events, Metrics::default());
        let key = |name| ObjectKey::new("shop", name);
        let (begun, after) = (Instant::now(), Duration::from_millis(30));
        writer.touch_later(vec![key("later"), key("too")], after);
        writer.touch_later(vec![key("now")], Duration::ZERO);
        writer.touch_later(Vec::new(), after);
        assert_eq!(writer.inner.queue.pop().await, key("now"));
        assert_eq!(begun.elapsed(), Duration::ZERO);
        assert_eq!(writer.inner.queue.pop().await, key("later"));
        assert_eq!(writer.inner.queue.pop().await, key("too"));
        assert!(begun.elapsed() >= after);
    }
}
