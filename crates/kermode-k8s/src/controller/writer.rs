//! Writes Dataplanes: what the index wants on one side, what the API server has on the other.
//!
//! Only the leader writes, only when the two differ, and by server-side apply under our own field manager, so that
//! replicas never fight. What somebody edits or deletes by hand is put right when the watch tells of it.

mod queue;

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kermode_crds::Dataplane;
use kermode_model::ObjectKey;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::core::DynamicObject;
use kube::{Api, Client};
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::queue::Queue;
use super::failure::{describe, is_conflict, is_not_found};
use super::recorder::{Events, Subject};
use crate::convert;

/// The field manager of our writes.
pub const FIELD_MANAGER: &str = "kuma-cp";
/// How many writes may be under way at once.
const CONCURRENCY: usize = 16;
/// How long after a failed write it is tried again.
const RETRY: Duration = Duration::from_secs(2);

/// A Dataplane as it should be.
#[derive(Clone, Debug, PartialEq)]
pub struct Desired {
    /// The Dataplane.
    pub dataplane: Arc<kermode_model::Dataplane>,
    /// UID of the Pod that owns it.
    pub pod_uid: Arc<str>,
}

/// Who knows what should be.
pub trait Source: Send + Sync + 'static {
    /// The Dataplane of that name as it should be; `None` when there should be none.
    fn desired(&self, key: &ObjectKey) -> Option<Desired>;
    /// The names of all that should be.
    fn keys(&self) -> Vec<ObjectKey>;
}

/// A Dataplane as the API server has it: enough to see that it differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observed {
    fingerprint: u64,
    /// Whether a Pod owns it. Those that people write themselves are left alone.
    generated: bool,
}

/// Counts writes, by what they did.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    writes: Family<WriteLabels, Counter>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WriteLabels {
    result: WriteResult,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
enum WriteResult {
    Created,
    Updated,
    Deleted,
    Failed,
}

/// A write has failed and been reported; it is to be tried again.
#[derive(Debug)]
struct Failed;

/// The writer; cheap to clone. Call its methods from anywhere, [`Writer::run`] once.
#[derive(Clone)]
pub struct Writer {
    shared: Arc<Shared>,
}

struct Shared {
    client: Client,
    source: Box<dyn Source>,
    events: Events,
    queue: Queue,
    observed: Mutex<HashMap<ObjectKey, Observed>>,
    metrics: Metrics,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

// === impl Metrics ===

impl Metrics {
    /// Registers the counters.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "dataplane_writes",
            "Dataplanes written to the API server",
            self.writes.clone(),
        );
    }

    fn count(&self, result: WriteResult) {
        self.writes.get_or_create(&WriteLabels { result }).inc();
    }
}

// === impl Observed ===

impl Observed {
    /// What matters of an object from the watch.
    pub fn new(object: &DynamicObject) -> Self {
        let owner = object
            .metadata
            .owner_references
            .iter()
            .flatten()
            .find(|owner| owner.kind == "Pod");
        let mesh = object
            .data
            .get("mesh")
            .and_then(serde_json::Value::as_str)
            .unwrap_or_default();
        let spec = object.data.get("spec").unwrap_or(&serde_json::Value::Null);
        Self {
            fingerprint: fingerprint(mesh, spec, owner.map_or("", |owner| &owner.uid)),
            generated: owner.is_some(),
        }
    }
}

/// Equal objects have equal fingerprints: serde_json sorts the keys of its maps.
fn fingerprint(mesh: &str, spec: &serde_json::Value, pod_uid: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    mesh.hash(&mut hasher);
    spec.to_string().hash(&mut hasher);
    pod_uid.hash(&mut hasher);
    hasher.finish()
}

// === impl Writer ===

impl Writer {
    /// A writer that has observed nothing yet.
    pub fn new(client: Client, source: impl Source, events: Events, metrics: Metrics) -> Self {
        Self {
            shared: Arc::new(Shared {
                client,
                source: Box::new(source),
                events,
                queue: Queue::default(),
                observed: Mutex::default(),
                metrics,
            }),
        }
    }

    /// Says that a Dataplane may differ from what it should be.
    pub fn touch(&self, key: ObjectKey) {
        self.shared.queue.push(key);
    }

    /// Says what the API server has; `None` when it has gone.
    pub fn observe(&self, key: ObjectKey, observed: Option<Observed>) {
        let mut all = self.shared.observed();
        let before = match observed {
            Some(observed) => all.insert(key.clone(), observed),
            None => all.remove(&key),
        };
        drop(all);
        if before != observed {
            self.shared.queue.push(key);
        }
    }

    /// Writes whenever `leading` says so, until dropped.
    pub async fn run(self, mut leading: watch::Receiver<bool>) {
        loop {
            if leading.wait_for(|leads| *leads).await.is_err() {
                return;
            }
            self.shared.queue.restart();
            let known: Vec<_> = self.shared.observed().keys().cloned().collect();
            self.shared
                .source
                .keys()
                .into_iter()
                .chain(known)
                .for_each(|key| self.touch(key));
            let mut stops = leading.clone();
            tokio::select! {
                _ = stops.wait_for(|leads| !*leads) => {}
                () = self.work() => {}
            }
        }
    }

    async fn work(&self) {
        let mut tasks = JoinSet::new();
        loop {
            let key = self.shared.queue.pop().await;
            if tasks.len() >= CONCURRENCY {
                tasks.join_next().await;
            }
            while tasks.try_join_next().is_some() {}
            let shared = self.shared.clone();
            tasks.spawn(async move {
                let succeeded = shared.reconcile(&key).await;
                shared.queue.done(&key);
                if !succeeded {
                    tokio::time::sleep(RETRY).await;
                    shared.queue.push(key);
                }
            });
        }
    }
}

// === impl Shared ===

impl Shared {
    fn observed(&self) -> std::sync::MutexGuard<'_, HashMap<ObjectKey, Observed>> {
        self.observed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nothing is left to do.
    async fn reconcile(&self, key: &ObjectKey) -> bool {
        let observed = self.observed().get(key).copied();
        let outcome = match (self.source.desired(key), observed) {
            (Some(desired), observed) => self.apply(key, &desired, observed).await,
            (None, Some(observed)) if observed.generated => self.delete(key).await,
            (None, _) => Ok(()),
        };
        outcome.is_ok()
    }

    async fn apply(
        &self,
        key: &ObjectKey,
        desired: &Desired,
        observed: Option<Observed>,
    ) -> Result<(), Failed> {
        let object = convert::dataplane_object(&desired.dataplane, &desired.pod_uid);
        let spec = serde_json::to_value(&object.spec).map_err(|error| {
            tracing::error!(dataplane = %key, %error, "Dataplane cannot be serialised");
            Failed
        })?;
        let fingerprint = fingerprint(&object.mesh, &spec, &desired.pod_uid);
        if observed.is_some_and(|observed| observed.fingerprint == fingerprint) {
            return Ok(());
        }
        let api: Api<Dataplane> = Api::namespaced(self.client.clone(), &key.namespace);
        let params = PatchParams::apply(FIELD_MANAGER).force();
        match api.patch(&key.name, &params, &Patch::Apply(object)).await {
            Ok(_) => {
                self.observed().insert(
                    key.clone(),
                    Observed {
                        fingerprint,
                        generated: true,
                    },
                );
                self.wrote(key, desired, observed.is_none());
                Ok(())
            }
            // The namespace is going away and the Pod with it.
            Err(error) if is_not_found(&error) || is_terminating(&error) => Ok(()),
            Err(error) => Err(self.failed(&format!("Dataplane {key} cannot be written"), &error)),
        }
    }

    fn wrote(&self, key: &ObjectKey, desired: &Desired, created: bool) {
        let subject = Subject {
            kind: "Pod",
            key: key.clone(),
            uid: desired.pod_uid.to_string(),
        };
        if created {
            self.metrics.count(WriteResult::Created);
            let message = format!("Created Kuma Dataplane: {}", key.name);
            self.events.normal(&subject, "CreatedKumaDataplane", &message);
        } else {
            self.metrics.count(WriteResult::Updated);
            tracing::debug!(dataplane = %key, "Dataplane updated");
        }
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), Failed> {
        let api: Api<Dataplane> = Api::namespaced(self.client.clone(), &key.namespace);
        // The object may be another one by now, written by hand after the one we knew had gone.
        let current = match api.get_metadata_opt(&key.name).await {
            Ok(Some(current)) => current.metadata,
            Ok(None) => return Ok(()),
            Err(error) => return Err(self.failed(&format!("Dataplane {key} cannot be read"), &error)),
        };
        if !current
            .owner_references
            .iter()
            .flatten()
            .any(|owner| owner.kind == "Pod")
        {
            return Ok(());
        }
        let preconditions = Preconditions {
            uid: current.uid,
            resource_version: None,
        };
        let params = DeleteParams {
            preconditions: Some(preconditions),
            ..DeleteParams::default()
        };
        match api.delete(&key.name, &params).await {
            Ok(_) => {
                self.metrics.count(WriteResult::Deleted);
                Ok(())
            }
            Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(()),
            Err(error) => Err(self.failed(&format!("Dataplane {key} cannot be deleted"), &error)),
        }
    }

    fn failed(&self, what: &str, error: &kube::Error) -> Failed {
        self.metrics.count(WriteResult::Failed);
        tracing::warn!("{}", describe(what, error));
        Failed
    }
}

fn is_terminating(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 403 && status.message.contains("being terminated"))
}
