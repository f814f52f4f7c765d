//! The engine: one task that applies what the watches tell to the index and hands on what changed because of it.
//!
//! A burst is taken as one: whatever waits in the channel is applied before anything is published, so the first
//! change goes out at once and the later ones together. Nothing is published before every watch has told its first
//! list, since a mesh with half its endpoints would be worse than none.

mod metrics;

use std::sync::Arc;
use std::time::{Duration, Instant};

use kermode_admission::directory::{Directory, NamespaceRecord};
use kermode_crds::ContainerPatchSpec;
use kermode_k8s::controller::recorder::{Events, Subject};
use kermode_k8s::controller::watch::Update;
use kermode_k8s::controller::writer::Writer;
use kermode_k8s::convert::facts::{NamespaceFacts, OwnerFacts, OwnerId, OwnerKind, PodFacts, ServiceFacts};
use kermode_k8s::index::{Changes, DataplaneChange, Index};
use kermode_k8s::shared_index::SharedIndex;
use kermode_model::view::Touched;
use kermode_model::{Dataplane, Inbound, Mesh, MeshName, ObjectKey, TrafficPermission};
use kermode_removals::EndpointRemovals;
use kermode_runtime::readiness::Guard;
use kermode_xds::snapshot::Publisher;
use tokio::sync::{Notify, mpsc, watch};

pub(crate) use metrics::Metrics;

/// What the watches tell.
#[derive(Debug)]
pub(crate) enum Message {
    /// Of Pods.
    Pod(Update<PodFacts>),
    /// Of Services.
    Service(Update<ServiceFacts>),
    /// Of Namespaces.
    Namespace(Update<NamespaceFacts>),
    /// Of ReplicaSets or Jobs.
    Owner(OwnerKind, Update<OwnerFacts>),
    /// Of Meshes.
    Mesh(Update<Mesh>),
    /// Of MeshTrafficPermissions, with the mesh they belong to.
    Permission(Update<(MeshName, TrafficPermission)>),
    /// Of ContainerPatches.
    ContainerPatch(Update<ContainerPatchSpec>),
}

/// A message, and when the watch told it.
#[derive(Debug)]
pub(crate) struct Told {
    at: Instant,
    message: Message,
}

/// How many watches there are, each of which tells [`Update::Synced`] once.
pub(crate) const WATCHES: usize = 8;
/// How many messages are applied before their effects are published.
const BATCH: usize = 1024;

/// What it takes to push a change to one proxy, about.
const PUSH: Duration = Duration::from_micros(30);
/// How long a write waits for pushes at most.
const LONGEST_PUSHES: Duration = Duration::from_millis(250);

/// The engine's parts.
pub(crate) struct Engine {
    /// What it writes to.
    pub(crate) index: SharedIndex,
    /// The webhook's directory, kept beside the index.
    pub(crate) directory: Directory,
    /// Generates configuration.
    pub(crate) publisher: Publisher,
    /// Keeps account of who still has the endpoints that were removed.
    pub(crate) removals: EndpointRemovals,
    /// Writes Dataplanes back.
    pub(crate) writer: Writer,
    /// Tells of Pods that cannot be converted.
    pub(crate) events: Events,
    /// Is told when a mesh, or who is in it, may have changed.
    pub(crate) meshes_changed: Arc<Notify>,
    /// Whether this replica leads.
    pub(crate) leading: watch::Receiver<bool>,
    /// What there is to tell operators of the work.
    pub(crate) metrics: Metrics,
}

impl From<Message> for Told {
    fn from(message: Message) -> Self {
        Self {
            at: Instant::now(),
            message,
        }
    }
}

/// How long it takes until a change has been pushed to so many proxies, if it is one for all of them. What is written
/// back to the API server is for people to look at; it shall not compete with what proxies wait for.
fn pushing(proxies: usize) -> Duration {
    let proxies = u32::try_from(proxies).unwrap_or(u32::MAX);
    PUSH.saturating_mul(proxies).min(LONGEST_PUSHES)
}

impl Engine {
    /// Runs until the senders are gone. `synced` is said ready once everything has been published for the first
    /// time.
    pub(crate) async fn run(mut self, mut messages: mpsc::Receiver<Told>, synced: Guard) {
        let mut synced_watches = 0;
        let mut synced = Some(synced);
        let mut batch = Vec::with_capacity(BATCH);
        let mut leading = self.leading.clone();
        let store = self.publisher.store().clone();
        loop {
            tokio::select! {
                received = messages.recv_many(&mut batch, BATCH) => if received == 0 {
                    return;
                },
                Ok(()) = leading.changed() => {
                    // What went wrong before somebody could tell of it.
                    if *leading.borrow_and_update() && synced.is_none() {
                        let complaints: Vec<_> = self.index.read().complaints().collect();
                        for change in complaints {
                            self.tell(change);
                        }
                    }
                    continue;
                }
                changed = store.demand_changed() => {
                    // Before the first publication there is nothing to follow: it looks for itself who is there.
                    if synced.is_none() {
                        self.publisher.follow(self.index.read().view(), changed);
                    }
                    continue;
                }
            }
            let begun = Instant::now();
            let _span = tracing::debug_span!("publish changes", messages = batch.len()).entered();
            self.metrics.taken(batch.len(), messages.len());
            let oldest = batch.iter().map(|told: &Told| told.at).min();
            let mut changes = self.apply(&mut synced_watches, batch.drain(..).map(|told| told.message));
            let first = synced.take_if(|_| synced_watches == WATCHES);
            if first.is_some() {
                // Until now a Pod may have been converted without its Services: only the outcome counts.
                changes = self.everything();
            }
            if synced.is_some() {
                continue;
            }
            self.publisher.apply(self.index.read().view(), &changes.touched);
            self.metrics.published(oldest, begun);
            let of_a_mesh = |touched: &Touched| matches!(touched, Touched::Mesh(_) | Touched::Dataplane(_));
            if changes.touched.iter().any(of_a_mesh) {
                self.meshes_changed.notify_one();
            }
            for touched in &changes.touched {
                if let Touched::Mesh(mesh) = touched {
                    self.writer.mesh_changed(mesh);
                }
            }
            if let Some(guard) = first {
                self.welcome_everybody();
                guard.ready();
                self.writer.desired_is_complete();
            }
            let mut unwritten = Vec::new();
            for change in changes.dataplanes {
                self.account_for(&change);
                unwritten.extend(self.hand_on(change));
            }
            self.writer
                .touch_later(unwritten, pushing(store.proxies_with_streams()));
        }
    }

    fn everything(&self) -> Changes {
        let index = self.index.read();
        let meshes = index.view().meshes().map(|mesh| Touched::Mesh(mesh.name.clone()));
        let proxies = index
            .view()
            .dataplanes()
            .map(|dataplane| Touched::Dataplane(dataplane.key.clone()));
        let touched = meshes.chain(proxies).collect();
        Changes {
            touched,
            // The writer goes through all Dataplanes by itself when it begins.
            dataplanes: index.complaints().collect(),
            ..Changes::default()
        }
    }

    fn apply(&self, synced: &mut usize, messages: impl Iterator<Item = Message>) -> Changes {
        let mut index = self.index.write();
        let before = index.conversions();
        let mut all = Changes::default();
        for message in messages {
            let changes = self.apply_one(&mut index, synced, message);
            all.touched.extend(changes.touched);
            all.dataplanes.extend(changes.dataplanes);
        }
        self.metrics.converted(index.conversions() - before);
        all
    }

    fn apply_one(&self, index: &mut Index, synced: &mut usize, message: Message) -> Changes {
        match message {
            Message::Pod(Update::Applied(_, pod)) => index.apply_pod(pod),
            Message::Pod(Update::Gone(key)) => index.remove_pod(&key),
            Message::Service(Update::Applied(_, service)) => index.apply_service(service),
            Message::Service(Update::Gone(key)) => index.remove_service(&key),
            Message::Namespace(Update::Applied(_, namespace)) => {
                let record = Arc::new(NamespaceRecord::from(&namespace));
                self.directory
                    .write()
                    .namespaces
                    .insert(namespace.name.clone(), record);
                index.apply_namespace(namespace)
            }
            Message::Namespace(Update::Gone(key)) => {
                self.directory.write().namespaces.remove(&key.name);
                index.remove_namespace(&key.name)
            }
            Message::Owner(_, Update::Applied(_, owner)) => index.apply_owner(owner),
            Message::Owner(kind, Update::Gone(key)) => index.remove_owner(&OwnerId { kind, key }),
            Message::Mesh(Update::Applied(key, mesh)) => {
                self.directory.write().meshes.insert(key.name);
                index.apply_mesh(mesh)
            }
            Message::Mesh(Update::Gone(key)) => {
                self.directory.write().meshes.remove(&key.name);
                index.remove_mesh(&MeshName::new(key.name))
            }
            Message::Permission(Update::Applied(key, (mesh, permission))) => {
                index.apply_permission(&key, &mesh, permission)
            }
            Message::Permission(Update::Gone(key)) => index.remove_permission(&key),
            Message::ContainerPatch(Update::Applied(key, patch)) => {
                self.directory.write().container_patches.insert(key.name, patch);
                Changes::default()
            }
            Message::ContainerPatch(Update::Gone(key)) => {
                self.directory.write().container_patches.remove(&key.name);
                Changes::default()
            }
            Message::Pod(Update::Synced)
            | Message::Service(Update::Synced)
            | Message::Namespace(Update::Synced)
            | Message::Owner(_, Update::Synced)
            | Message::Mesh(Update::Synced)
            | Message::Permission(Update::Synced)
            | Message::ContainerPatch(Update::Synced) => {
                *synced += 1;
                Changes::default()
            }
        }
    }

    /// Everybody that may be sent requests when the account begins.
    fn welcome_everybody(&self) {
        let index = self.index.read();
        let ready = index.view().dataplanes().filter(|dataplane| is_ready(dataplane));
        for dataplane in ready {
            self.removals
                .endpoint_added(dataplane.key.clone(), dataplane.mesh.clone());
        }
    }

    /// Who may be sent requests, and who may no longer. What is said here has been published.
    fn account_for(&self, change: &DataplaneChange) {
        let published = |mesh: &MeshName| self.publisher.published(mesh);
        match change {
            DataplaneChange::Upsert { dataplane, .. } if is_ready(dataplane) => {
                self.removals
                    .endpoint_added(dataplane.key.clone(), dataplane.mesh.clone());
            }
            DataplaneChange::Upsert { dataplane, .. } => {
                self.removals.endpoint_removed(&dataplane.key, published);
            }
            DataplaneChange::Delete(key) => {
                self.removals.endpoint_removed(key, published);
                self.removals.dataplane_deleted(key);
            }
            DataplaneChange::Failed { .. } => {}
        }
    }

    /// Tells of a change; the Dataplane that is to be written.
    fn hand_on(&self, change: DataplaneChange) -> Option<ObjectKey> {
        let changed = match &change {
            DataplaneChange::Upsert { dataplane, .. } => Some(dataplane.key.clone()),
            DataplaneChange::Delete(key) => Some(key.clone()),
            DataplaneChange::Failed { key, error, .. } => {
                self.writer.metrics().not_generated();
                tracing::warn!(pod = %key, "Dataplane cannot be generated: {error}");
                None
            }
        };
        self.tell(change);
        changed
    }

    /// What the owner of a Pod should know, on the Pod.
    fn tell(&self, change: DataplaneChange) {
        match change {
            DataplaneChange::Upsert {
                dataplane,
                pod_uid,
                warnings,
            } => {
                for warning in warnings.iter() {
                    self.warn(&dataplane.key, &pod_uid, warning.reason(), &warning.to_string());
                }
            }
            DataplaneChange::Delete(_) => {}
            DataplaneChange::Failed { key, pod_uid, error } => {
                let message = format!("Failed to generate Kuma Dataplane: {error}");
                self.warn(&key, &pod_uid, "FailedToGenerateKumaDataplane", &message);
            }
        }
    }

    fn warn(&self, pod: &ObjectKey, uid: &Arc<str>, reason: &'static str, message: &str) {
        if !*self.leading.borrow() {
            return;
        }
        let subject = Subject {
            kind: "Pod",
            key: pod.clone(),
            uid: uid.to_string(),
        };
        self.events.warning(&subject, reason, message);
    }
}

fn is_ready(dataplane: &Dataplane) -> bool {
    dataplane.inbounds.iter().any(Inbound::is_ready)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_wait_for_pushes_and_never_for_long() {
        assert_eq!(pushing(0), Duration::ZERO);
        assert_eq!(pushing(1_000), Duration::from_millis(30));
        assert_eq!(pushing(usize::MAX), LONGEST_PUSHES);
    }
}
