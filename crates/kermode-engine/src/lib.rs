//! The engine: one task that applies watch events to the index and publishes what changed.
//!
//! ```text
//! watches ──WatchEvent──▶ index ──Touched──▶ publisher (xDS)
//!                               ├─DataplaneChange─▶ endpoint removals, writer of Dataplanes, Kubernetes Events
//!                               └─finished applications─▶ their classic sidecars, which wait for this
//! ```
//!
//! All watch events that are in the channel are applied as one batch, up to a limit. The first change of a burst is
//! therefore published immediately, and the following changes together. Nothing is published before every watch has
//! delivered its initial list, because proxies would lose endpoints that are not listed yet.

mod events;
mod metrics;
#[cfg(test)]
mod tests;
pub mod watches;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kermode_admission::directory::{Directory, GatewayName, NamespaceRecord};
use kermode_k8s::controller::recorder::{EventRecorder, Subject};
use kermode_k8s::controller::roots::SidecarNamespaces;
use kermode_k8s::controller::watch::Update;
use kermode_k8s::controller::writer::Writer;
use kermode_k8s::convert::WarningSubject;
use kermode_k8s::convert::facts::{IntermediateId, NamespaceFacts};
use kermode_k8s::index::{Changes, DataplaneChange, Index};
use kermode_k8s::service_changes::ServiceChanges;
use kermode_k8s::shared_index::SharedIndex;
use kermode_model::view::{MeshView, Touched};
use kermode_model::{Dataplane, Inbound, KubernetesVersion, MeshName, ObjectKey, ServiceName, VirtualIps};
use kermode_removals::EndpointRemovals;
use kermode_runtime::readiness::ReadinessGuard;
use kermode_xds::publisher::Publisher;
use tokio::sync::{Notify, mpsc, watch};

use self::events::InitialSync;
pub use self::events::{ObjectUpdate, WatchEvent, WatchKind};
pub use self::metrics::Metrics;

/// Maximum number of watch events in a batch.
const MAX_BATCH_SIZE: usize = 1024;

/// Estimated time to push a change to one proxy.
const PUSH_TIME_PER_PROXY: Duration = Duration::from_micros(30);
/// Upper bound of the delay of writes to the API server, short enough to be unnoticeable in `kubectl`.
const MAX_WRITE_DELAY: Duration = Duration::from_millis(250);

/// Inputs and outputs of the engine.
pub struct Engine {
    /// The index. Only the engine updates it.
    pub index: SharedIndex,
    /// Directory that the webhooks read. Updated together with the index.
    pub directory: Directory,
    /// Generates and publishes Envoy resources.
    pub publisher: Publisher,
    /// Tracks the proxies that have not acknowledged the removal of an endpoint.
    pub removals: EndpointRemovals,
    /// Writes Dataplanes to the API server.
    pub writer: Writer,
    /// Records warnings about Pods and Services as Kubernetes Events.
    pub event_recorder: EventRecorder,
    /// Notified when a Mesh or the Dataplanes of a mesh may have changed.
    pub meshes_changed: Arc<Notify>,
    /// Notified when Meshes or services may have been created or deleted.
    pub service_changes: ServiceChanges,
    /// Namespaces of sidecars, which need the roots of the control plane.
    pub sidecar_namespaces: SidecarNamespaces,
    /// Whether this replica is the leader. Only the leader records Events.
    pub is_leader: watch::Receiver<bool>,
    /// Metrics of the engine.
    pub metrics: Metrics,
}

/// Services about which an Event was recorded in the current batch, with the reason of the Event.
type ReportedServices = HashSet<(ObjectKey, &'static str)>;

/// Service that gained its first or lost its last endpoint, and whether it has endpoints now.
type ChangedService<'t> = (&'t MeshName, &'t ServiceName, bool);

/// Dataplane that became a gateway, or a gateway whose name changed, with its name now.
type ChangedGateway<'t> = (&'t ObjectKey, Option<GatewayName>);

/// State until the first publication.
struct Startup {
    sync: InitialSync,
    /// Keeps the replica unready until the first publication.
    readiness_guard: ReadinessGuard,
}

/// Returns how long writes to the API server are delayed after a change, so that the change reaches `proxies` proxies
/// first.
fn write_delay(proxies: usize) -> Duration {
    let proxies = u32::try_from(proxies).unwrap_or(u32::MAX);
    PUSH_TIME_PER_PROXY.saturating_mul(proxies).min(MAX_WRITE_DELAY)
}

// === impl Engine ===

impl Engine {
    /// Runs until all senders of watch events are dropped. Marks the replica as ready after the first publication.
    pub async fn run(
        mut self,
        mut watch_events: mpsc::Receiver<WatchEvent>,
        readiness_guard: ReadinessGuard,
    ) {
        let mut startup = Some(Startup {
            sync: InitialSync::default(),
            readiness_guard,
        });
        let mut batch = Vec::with_capacity(MAX_BATCH_SIZE);
        let mut is_leader = self.is_leader.clone();
        let store = self.publisher.store().clone();
        loop {
            tokio::select! {
                received = watch_events.recv_many(&mut batch, MAX_BATCH_SIZE) => {
                    if received == 0 {
                        return;
                    }
                    self.on_batch(&mut startup, &mut batch, watch_events.len());
                }
                Ok(()) = is_leader.changed() => {
                    // A new leader also records the warnings that were raised before its election.
                    if *is_leader.borrow_and_update() && startup.is_none() {
                        self.record_all_warnings();
                    }
                }
                proxies = store.demand_changed() => {
                    // The first publication includes all proxies that are connected at that time.
                    if startup.is_none() {
                        self.publisher.update_demand(self.index.read().view(), proxies);
                    }
                }
            }
        }
    }

    /// Drains and applies a batch. Publishes the resulting changes if all watches have delivered their initial lists.
    /// `waiting` is the number of watch events that are still in the channel.
    fn on_batch(&mut self, startup: &mut Option<Startup>, batch: &mut Vec<WatchEvent>, waiting: usize) {
        let started_at = Instant::now();
        let _span = tracing::debug_span!("publish changes", events = batch.len()).entered();
        self.metrics.batch_received(batch.len(), waiting);
        let changes_services =
            |event: &WatchEvent| matches!(event.update, ObjectUpdate::Service(_) | ObjectUpdate::Mesh(_));
        let has_service_changes = batch.iter().any(changes_services);
        let oldest_received_at = batch.iter().map(|event| event.received_at).min();
        let mut changes = self.apply(batch.drain(..).map(|event| event.update), startup.as_mut());
        // Sidecars may already wait for the end of their application before the first publication.
        self.index.notify_finished(&changes.sidecars_to_quit);
        let finished_startup = startup.take_if(|startup| startup.sync.is_complete());
        if finished_startup.is_some() {
            // The first publication covers the whole index. The changes so far are dropped, because they include
            // conversions of Pods whose Services had not been listed yet.
            changes = self.initial_changes();
        }
        if startup.is_some() {
            return;
        }
        self.publish(&changes.touched);
        self.metrics.batch_published(oldest_received_at, started_at);
        if let Some(finished_startup) = finished_startup {
            self.add_ready_endpoints();
            finished_startup.readiness_guard.mark_ready();
            // The writer deletes the Dataplanes without a Pod, so the writer may start only after all Pods are listed.
            self.writer.set_desired_complete();
            self.service_changes.start();
        }
        if has_service_changes {
            self.service_changes.notify();
        }
        let mut to_write = Vec::new();
        let mut reported = ReportedServices::default();
        for change in changes.dataplanes {
            self.update_removals(&change);
            to_write.extend(self.report(change, &mut reported));
        }
        let proxies = self.publisher.store().proxies_with_streams();
        self.writer.enqueue_later(to_write, write_delay(proxies));
    }

    fn publish(&mut self, touched: &[Touched]) {
        self.publisher.apply(self.index.read().view(), touched);
        self.index.notify_changed(touched);
        let changes_mesh_status =
            |touched: &Touched| matches!(touched, Touched::Mesh(_) | Touched::Dataplane(_));
        if touched.iter().any(changes_mesh_status) {
            self.meshes_changed.notify_one();
        }
        for touched in touched {
            if let Touched::Mesh(mesh) = touched {
                self.writer.mesh_changed(mesh);
            }
        }
    }

    /// Returns the changes that lead from an empty mesh view to the current index.
    fn initial_changes(&self) -> Changes {
        let index = self.index.read();
        let meshes = index.view().meshes().map(|mesh| Touched::Mesh(mesh.name.clone()));
        let dataplanes = index
            .view()
            .dataplanes()
            .map(|dataplane| Touched::Dataplane(dataplane.key.clone()));
        let touched = meshes.chain(dataplanes).collect();
        Changes {
            touched,
            // Only for the Events of Pods with warnings or errors: the writer reconciles all Dataplanes when it starts.
            dataplanes: index.problems().collect(),
            ..Changes::default()
        }
    }

    fn apply(
        &self,
        updates: impl Iterator<Item = ObjectUpdate>,
        mut startup: Option<&mut Startup>,
    ) -> Changes {
        let mut index = self.index.write();
        let conversions_before = index.conversions();
        let mut all_changes = Changes::default();
        for update in updates {
            if let (Some(watch), Some(startup)) = (update.synced_watch(), &mut startup) {
                startup.sync.mark_synced(watch);
            }
            let changes = self.apply_update(&mut index, update);
            all_changes.touched.extend(changes.touched);
            all_changes.dataplanes.extend(changes.dataplanes);
            all_changes.sidecars_to_quit.extend(changes.sidecars_to_quit);
        }
        self.metrics
            .pods_converted(index.conversions() - conversions_before);
        self.update_service_names(&index, &all_changes.touched);
        all_changes
    }

    /// Updates the names of services and gateways in the directory: a service is added with its first endpoint and
    /// removed with its last.
    fn update_service_names(&self, index: &Index, touched: &[Touched]) {
        let (services, gateways) = self.changed_service_names(index.view(), touched);
        if services.is_empty() && gateways.is_empty() {
            return;
        }
        let mut directory = self.directory.write();
        for (mesh, service, exists) in services {
            directory.services.set(mesh, service, exists);
        }
        for (dataplane, name) in gateways {
            directory.services.set_gateway(dataplane.clone(), name);
        }
        self.service_changes.notify();
    }

    /// Returns the touched services and gateways for which the directory differs from the view.
    fn changed_service_names<'t>(
        &self,
        view: &MeshView,
        touched: &'t [Touched],
    ) -> (Vec<ChangedService<'t>>, Vec<ChangedGateway<'t>>) {
        let directory = self.directory.read();
        let names = &directory.services;
        let mut services = Vec::new();
        let mut gateways = Vec::new();
        for part in touched {
            match part {
                Touched::Service(mesh, service) => {
                    let exists = view.service(mesh, service).is_some();
                    if names.has_endpoint(mesh, service) != exists {
                        services.push((mesh, service, exists));
                    }
                }
                Touched::Dataplane(key) => {
                    let name = view.dataplane(key).and_then(|dataplane| gateway_name(dataplane));
                    if names.gateway(key) != name.as_ref() {
                        gateways.push((key, name));
                    }
                }
                Touched::Mesh(_) | Touched::Inbound(..) => {}
            }
        }
        (services, gateways)
    }

    fn apply_update(&self, index: &mut Index, update: ObjectUpdate) -> Changes {
        match update {
            ObjectUpdate::Pod(Update::Applied(key, pod)) => {
                // The watch delivers only Pods with a sidecar. A Namespace without injection may have some.
                if !index.is_terminating(&key.namespace) {
                    self.sidecar_namespaces.add(&key.namespace);
                }
                index.apply_pod(pod)
            }
            ObjectUpdate::Pod(Update::Gone(key)) => index.remove_pod(&key),
            ObjectUpdate::Service(Update::Applied(_, service)) => index.apply_service(service),
            ObjectUpdate::Service(Update::Gone(key)) => index.remove_service(&key),
            ObjectUpdate::EndpointSlice(Update::Applied(_, slice)) => index.apply_endpoint_slice(slice),
            ObjectUpdate::EndpointSlice(Update::Gone(key)) => index.remove_endpoint_slice(&key),
            ObjectUpdate::Namespace(update) => self.apply_namespace(index, update),
            ObjectUpdate::Node(Update::Applied(key, node)) => self.set_node(key.name, Some(node.version)),
            ObjectUpdate::Node(Update::Gone(key)) => self.set_node(key.name, None),
            ObjectUpdate::Intermediate(_, Update::Applied(_, facts)) => index.apply_intermediate(facts),
            ObjectUpdate::Intermediate(kind, Update::Gone(key)) => {
                index.remove_intermediate(&IntermediateId { kind, key })
            }
            ObjectUpdate::Mesh(Update::Applied(key, mesh)) => {
                self.directory.write().meshes.insert(key.name);
                index.apply_mesh(mesh)
            }
            ObjectUpdate::Mesh(Update::Gone(key)) => {
                self.directory.write().meshes.remove(&key.name);
                index.remove_mesh(&MeshName::new(key.name))
            }
            ObjectUpdate::Permission(Update::Applied(key, (mesh, permission))) => {
                index.apply_permission(&key, &mesh, permission)
            }
            ObjectUpdate::Permission(Update::Gone(key)) => index.remove_permission(&key),
            ObjectUpdate::ContainerPatch(Update::Applied(key, patch)) => {
                self.directory.write().container_patches.insert(key.name, patch);
                Changes::default()
            }
            ObjectUpdate::ContainerPatch(Update::Gone(key)) => {
                self.directory.write().container_patches.remove(&key.name);
                Changes::default()
            }
            ObjectUpdate::VirtualIps(update) => apply_virtual_ips(index, update),
            ObjectUpdate::Pod(Update::Synced)
            | ObjectUpdate::Service(Update::Synced)
            | ObjectUpdate::EndpointSlice(Update::Synced)
            | ObjectUpdate::Node(Update::Synced)
            | ObjectUpdate::Intermediate(_, Update::Synced)
            | ObjectUpdate::Mesh(Update::Synced)
            | ObjectUpdate::Permission(Update::Synced)
            | ObjectUpdate::ContainerPatch(Update::Synced) => Changes::default(),
        }
    }

    /// Sets the version of a Node's kubelet; `None` removes the Node. Logs a change of the mode (native or classic) of
    /// new sidecars.
    fn set_node(&self, node: Arc<str>, version: Option<KubernetesVersion>) -> Changes {
        let supports_native =
            |(_, version): &(Arc<str>, KubernetesVersion)| version.supports_native_sidecars();
        let mut directory = self.directory.write();
        let before = directory.nodes.oldest();
        directory.nodes.set(node, version);
        let oldest = directory.nodes.oldest();
        drop(directory);
        if let Some((node, version)) = &oldest
            && before.as_ref().map(supports_native) != oldest.as_ref().map(supports_native)
        {
            let native = version.supports_native_sidecars();
            tracing::info!(%node, kubelet = %version, native, "sidecar mode auto follows the oldest kubelet");
        }
        Changes::default()
    }

    fn apply_namespace(&self, index: &mut Index, update: Update<NamespaceFacts>) -> Changes {
        match update {
            Update::Applied(_, namespace) => {
                let record = Arc::new(NamespaceRecord::from(&namespace));
                if namespace.is_terminating {
                    self.sidecar_namespaces.remove(&namespace.name);
                } else if record.enables_injection() {
                    self.sidecar_namespaces.add(&namespace.name);
                }
                let name = namespace.name.clone();
                self.directory.write().namespaces.insert(name, record);
                index.apply_namespace(namespace)
            }
            Update::Gone(key) => {
                self.directory.write().namespaces.remove(&key.name);
                self.sidecar_namespaces.remove(&key.name);
                index.remove_namespace(&key.name)
            }
            Update::Synced => Changes::default(),
        }
    }

    /// Reports the endpoints of the first publication, so that their removals are tracked.
    fn add_ready_endpoints(&self) {
        let index = self.index.read();
        let ready = index
            .view()
            .dataplanes()
            .filter(|dataplane| has_ready_inbound(dataplane));
        for dataplane in ready {
            self.removals
                .on_endpoint_added(dataplane.key.clone(), dataplane.mesh.clone());
        }
    }

    /// Reports to the tracking of endpoint removals that a change added or removed an endpoint. Called after the change
    /// is published.
    fn update_removals(&self, change: &DataplaneChange) {
        let published_sequence = |mesh: &MeshName| self.publisher.published_sequence(mesh);
        match change {
            DataplaneChange::Upsert { dataplane, .. } if has_ready_inbound(dataplane) => {
                self.removals
                    .on_endpoint_added(dataplane.key.clone(), dataplane.mesh.clone());
            }
            DataplaneChange::Upsert { dataplane, .. } => {
                self.removals
                    .on_endpoint_removed(&dataplane.key, published_sequence);
            }
            DataplaneChange::Delete(key) => {
                self.removals.on_dataplane_deleted(key, published_sequence);
            }
            DataplaneChange::Failed { .. } => {}
        }
    }

    /// Records the warnings or the error of a change as Events. Counts and logs a failed conversion. Returns the key of
    /// the Dataplane to write or delete; `None` if the conversion failed.
    fn report(&self, change: DataplaneChange, reported: &mut ReportedServices) -> Option<ObjectKey> {
        let to_write = match &change {
            DataplaneChange::Upsert { dataplane, .. } => Some(dataplane.key.clone()),
            DataplaneChange::Delete(key) => Some(key.clone()),
            DataplaneChange::Failed { key, error, .. } => {
                self.writer.metrics().count_generation_failure();
                tracing::warn!(pod = %key, "Dataplane cannot be generated: {error}");
                None
            }
        };
        self.record_warnings(change, reported);
        to_write
    }

    /// Records the current warnings and errors of all Pods as Events.
    fn record_all_warnings(&self) {
        let changes: Vec<_> = self.index.read().problems().collect();
        let mut reported = ReportedServices::default();
        for change in changes {
            self.record_warnings(change, &mut reported);
        }
    }

    /// Records the warnings or the error of a change as Events on the Pod or its Services, if this replica is the
    /// leader. A Service that is in `reported` with the same reason gets no further Event.
    fn record_warnings(&self, change: DataplaneChange, reported: &mut ReportedServices) {
        if !*self.is_leader.borrow() {
            return;
        }
        match change {
            DataplaneChange::Upsert {
                dataplane,
                pod_uid,
                warnings,
            } => {
                for warning in warnings.iter() {
                    let subject = match warning.subject() {
                        WarningSubject::Pod => subject("Pod", &dataplane.key, &pod_uid),
                        WarningSubject::Service(key, uid) => subject("Service", key, uid),
                    };
                    let is_new =
                        subject.kind == "Pod" || reported.insert((subject.key.clone(), warning.reason()));
                    if is_new {
                        self.record(
                            &subject,
                            warning.is_usual(),
                            warning.reason(),
                            &warning.to_string(),
                        );
                    }
                }
            }
            DataplaneChange::Delete(_) => {}
            DataplaneChange::Failed { key, pod_uid, error } => {
                let message = format!("Failed to generate Kuma Dataplane: {error}");
                let subject = subject("Pod", &key, &pod_uid);
                self.record(&subject, false, "FailedToGenerateKumaDataplane", &message);
            }
        }
    }

    /// Records an Event, of type `Normal` if the cause is a usual configuration, else of type `Warning`.
    fn record(&self, subject: &Subject, is_usual: bool, reason: &'static str, message: &str) {
        if is_usual {
            self.event_recorder.normal(subject, reason, message);
        } else {
            self.event_recorder.warning(subject, reason, message);
        }
    }
}

fn apply_virtual_ips(index: &mut Index, update: Update<BTreeMap<MeshName, VirtualIps>>) -> Changes {
    match update {
        Update::Applied(_, virtual_ips) => index.apply_virtual_ips(virtual_ips),
        Update::Gone(_) => index.apply_virtual_ips(BTreeMap::new()),
        Update::Synced => Changes::default(),
    }
}

fn subject(kind: &'static str, key: &ObjectKey, uid: &Arc<str>) -> Subject {
    Subject {
        kind,
        key: key.clone(),
        uid: uid.to_string(),
    }
}

/// Returns the name of a gateway; `None` if the Dataplane is no gateway.
fn gateway_name(dataplane: &Dataplane) -> Option<GatewayName> {
    dataplane.gateway.as_ref()?;
    let service = dataplane.services().into_iter().next()?;
    let mesh = dataplane.mesh.clone();
    Some(GatewayName { mesh, service })
}

/// Whether the proxy of the Dataplane counts as an endpoint: at least one inbound is ready.
fn has_ready_inbound(dataplane: &Dataplane) -> bool {
    dataplane.inbounds.iter().any(Inbound::is_ready)
}
