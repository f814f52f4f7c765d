//! Publisher: generates Envoy resources from the changed parts of the mesh view and writes them to the store.
//!
//! The engine calls the publisher after each batch of watch events. The shared resources of a mesh are for all proxies
//! of the mesh. The own resources of a proxy are for that proxy alone, and are published only while the proxy has a
//! stream on this replica.

mod direct;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use kermode_envoy::generate::OnDemandAddresses;
use kermode_envoy::{Resource, ResourceKind, generate, names};
use kermode_model::view::{MeshView, Touched};
use kermode_model::{Dataplane, Mesh, MeshName, ObjectKey, ServiceName, VirtualIpRange};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

use self::direct::{DirectChanges, DirectProxies};
use crate::store::{Key, Profile, ServiceSelection, Store};

/// Publishes changes of a mesh view. Owned by one task.
#[derive(Debug)]
pub struct Publisher {
    store: Arc<Store>,
    /// Published proxies with direct access to Pods (`kuma.io/direct-access-services`).
    direct: DirectProxies,
    /// Range of the virtual IPs; `None` if services have no virtual IPs.
    virtual_ips: Option<VirtualIpRange>,
    metrics: Metrics,
}

#[derive(Clone, Debug, Default)]
struct Metrics {
    /// Encoded resources.
    encoded: Counter,
    /// Published changes of resources, including removals.
    changed: Counter,
}

/// Parts of the mesh view to publish after a batch of watch events or a change of the demand, without duplicates.
#[derive(Default)]
struct Work {
    /// Meshes to publish, each with all of its shared resources.
    meshes: HashSet<MeshName>,
    /// Services to publish, each with all of its shared resources. By mesh, without the meshes in `meshes`.
    services: HashMap<MeshName, HashSet<ServiceName>>,
    /// Proxies to publish, each with all of its own resources.
    proxies: HashSet<ObjectKey>,
    /// Inbounds of which only the listeners have to be published: the ports by proxy, without the proxies in `proxies`.
    inbounds: HashMap<ObjectKey, Vec<u16>>,
}

// === impl Publisher ===

impl Publisher {
    /// Creates a publisher that writes to a store.
    pub fn new(store: Arc<Store>) -> Self {
        Self {
            store,
            direct: DirectProxies::default(),
            virtual_ips: None,
            metrics: Metrics::default(),
        }
    }

    /// Sets the range of the virtual IPs; `None` if services have no virtual IPs.
    #[must_use]
    pub fn with_virtual_ips(self, virtual_ips: Option<VirtualIpRange>) -> Self {
        Self { virtual_ips, ..self }
    }

    /// Registers the counters.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Resources encoded because a part of the mesh view that they depend on changed";
        registry.register("xds_resources_encoded", help, self.metrics.encoded.clone());
        let help = "Resources that changed and were published, removals included";
        registry.register("xds_resources_changed", help, self.metrics.changed.clone());
    }

    /// Generates and publishes the resources of the parts in `touched`. Publishes shared resources first, so that no
    /// stream sees a listener before its clusters.
    pub fn apply(&mut self, view: &MeshView, touched: &[Touched]) {
        let mut work = Self::plan(view, touched);
        self.publish(view, &mut work);
    }

    /// Publishes the own resources of the proxies that gained their first stream, and removes the own resources of the
    /// proxies that lost their last stream. `changed` contains both.
    pub fn update_demand(&mut self, view: &MeshView, changed: HashSet<ObjectKey>) {
        let (connected, disconnected): (HashSet<_>, HashSet<_>) = changed
            .into_iter()
            .partition(|proxy| self.store.has_stream(proxy));
        for proxy in &disconnected {
            self.remove_proxy(proxy);
        }
        let mut work = Work {
            proxies: connected,
            ..Work::default()
        };
        self.publish(view, &mut work);
    }

    /// Returns the store.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Publishes parts of the mesh view: shared resources first, then own resources.
    fn publish(&mut self, view: &MeshView, work: &mut Work) {
        work.proxies.retain(|proxy| self.store.has_stream(proxy));
        let (publishable, unpublishable): (HashSet<_>, HashSet<_>) = std::mem::take(&mut work.proxies)
            .into_iter()
            .partition(|proxy| has_mesh(view, proxy));
        work.proxies = publishable;
        // Proxies of a deleted Mesh are removed before the shared resources of the Mesh. In the other order, the
        // streams of these proxies would remove the shared resources from Envoys that still serve.
        for proxy in &unpublishable {
            self.remove_proxy(proxy);
        }
        for mesh in &work.meshes {
            self.publish_mesh(view, mesh);
            self.direct.reload_mesh(view, mesh);
        }
        for (mesh, services) in &work.services {
            for service in services {
                self.publish_service(view, mesh, service);
            }
            for changes in self.direct.update_services(view, mesh, services) {
                // Proxies in `work.proxies` get these changes below, with all other resources of their own.
                if !work.proxies.contains(&changes.proxy) {
                    self.publish_direct_access(view, changes);
                }
            }
        }
        for proxy in &work.proxies {
            self.publish_proxy(view, proxy);
        }
        for (proxy, ports) in &work.inbounds {
            self.publish_inbounds(view, proxy, ports);
        }
    }

    /// Returns the sequence number of the last published change of a mesh's shared resources.
    pub fn published_sequence(&self, mesh: &MeshName) -> u64 {
        self.store.mesh_sequence(mesh)
    }

    /// Returns the work for the touched parts of the mesh view.
    fn plan(view: &MeshView, touched: &[Touched]) -> Work {
        let mut work = Work::default();
        for part in touched {
            match part {
                Touched::Mesh(mesh) => {
                    work.proxies
                        .extend(view.dataplanes_of(mesh).map(|dataplane| dataplane.key.clone()));
                    work.meshes.insert(mesh.clone());
                }
                Touched::Service(mesh, service) => {
                    let services = work.services.entry(mesh.clone()).or_default();
                    services.insert(service.clone());
                }
                Touched::Dataplane(key) => {
                    work.proxies.insert(key.clone());
                }
                Touched::Inbound(key, port) => {
                    work.inbounds.entry(key.clone()).or_default().push(*port);
                }
            }
        }
        work.inbounds.retain(|proxy, _| !work.proxies.contains(proxy));
        let Work { meshes, services, .. } = &mut work;
        services.retain(|mesh, _| !meshes.contains(mesh));
        work
    }

    fn publish_mesh(&self, view: &MeshView, name: &MeshName) {
        let Some(mesh) = view.mesh(name) else {
            return self.store.remove_mesh(name);
        };
        let services = view
            .services(name)
            .flat_map(|(name, service)| generate::service(mesh, name, service));
        let resources: Vec<_> = generate::mesh_shared(mesh).into_iter().chain(services).collect();
        self.count_encoded(&resources);
        self.metrics
            .changed
            .inc_by(self.store.replace_mesh(name, resources) as u64);
    }

    fn publish_service(&self, view: &MeshView, mesh_name: &MeshName, name: &ServiceName) {
        let Some(mesh) = view.mesh(mesh_name) else { return };
        let service = view.service(mesh_name, name);
        let resources = service
            .map(|service| generate::service(mesh, name, service))
            .unwrap_or_default();
        self.count_encoded(&resources);
        self.metrics
            .changed
            .inc_by(self.store.replace_service(mesh_name, name, resources) as u64);
    }

    fn remove_proxy(&mut self, key: &ObjectKey) {
        self.direct.remove(key);
        self.store.remove_proxy(key);
    }

    fn publish_proxy(&mut self, view: &MeshView, key: &ObjectKey) {
        let Some(dataplane) = view.dataplane(key) else {
            return;
        };
        let Some(mesh) = view.mesh(&dataplane.mesh) else {
            return;
        };
        let direct = self.direct.register(view, mesh, dataplane);
        let on_demand = self.on_demand(direct.as_ref().map(|direct| &direct.addresses));
        let mut resources = generate::proxy(mesh, dataplane, view.permissions(&mesh.name), on_demand);
        resources.extend(direct.into_iter().flat_map(|direct| direct.clusters));
        self.count_encoded(&resources);
        let changed = self.store.replace_proxy(key, profile(mesh, dataplane), resources);
        self.metrics.changed.inc_by(changed as u64);
    }

    /// Publishes the listeners of the inbounds with these ports, after a change of the permissions that apply to them.
    fn publish_inbounds(&self, view: &MeshView, key: &ObjectKey, ports: &[u16]) {
        let dataplane = view.dataplane(key).filter(|_| self.store.has_stream(key));
        let mesh = dataplane.and_then(|dataplane| view.mesh(&dataplane.mesh));
        let (Some(dataplane), Some(mesh)) = (dataplane, mesh) else {
            return;
        };
        let permissions = view.permissions(&mesh.name);
        let listeners = ports
            .iter()
            .flat_map(|port| generate::inbound_listeners(mesh, dataplane, *port, permissions));
        let resources: Vec<_> = listeners.collect();
        self.count_encoded(&resources);
        let changed_count = self.store.update_proxy(key, resources, &[]);
        self.metrics
            .changed
            .inc_by(changed_count.unwrap_or_default() as u64);
    }

    fn publish_direct_access(&self, view: &MeshView, changes: DirectChanges) {
        let Some(dataplane) = view.dataplane(&changes.proxy) else {
            return;
        };
        let listeners = changes.addresses.iter();
        let listeners = listeners
            .flat_map(|addresses| generate::on_demand_listeners(dataplane, self.on_demand(Some(addresses))));
        let upserts: Vec<_> = listeners.chain(changes.clusters).collect();
        let removals = changes.removed.iter().map(|address| Key {
            kind: ResourceKind::Cluster,
            name: names::direct_access(*address).into(),
        });
        self.count_encoded(&upserts);
        let removals: Vec<_> = removals.collect();
        let changed_count = self.store.update_proxy(&changes.proxy, upserts, &removals);
        self.metrics
            .changed
            .inc_by(changed_count.unwrap_or_default() as u64);
    }

    fn on_demand<'a>(&self, direct_access: Option<&'a BTreeSet<SocketAddr>>) -> OnDemandAddresses<'a> {
        OnDemandAddresses {
            direct_access,
            virtual_ips: self.virtual_ips,
        }
    }

    fn count_encoded(&self, resources: &[Resource]) {
        self.metrics.encoded.inc_by(resources.len() as u64);
    }
}

/// Returns whether a proxy has a Dataplane, and its Mesh exists.
fn has_mesh(view: &MeshView, proxy: &ObjectKey) -> bool {
    let dataplane = view.dataplane(proxy);
    dataplane.is_some_and(|dataplane| view.mesh(&dataplane.mesh).is_some())
}

/// Returns the profile of the proxy that a Dataplane describes.
fn profile(mesh: &Mesh, dataplane: &Dataplane) -> Profile {
    let visibility = match dataplane.reachable_services() {
        None => ServiceSelection::All,
        Some(services) => ServiceSelection::Only(
            services
                .iter()
                .map(|name| ServiceName::from(name.as_str()))
                .collect(),
        ),
    };
    let hidden = generate::hidden_resource_names(dataplane)
        .into_iter()
        .map(|(kind, name)| Key {
            kind,
            name: name.into(),
        })
        .collect();
    Profile {
        visibility,
        hidden,
        ..Profile::new(mesh.name.clone())
    }
}
