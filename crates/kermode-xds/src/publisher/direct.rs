//! Direct access to Pods (`kuma.io/direct-access-services`): which published proxies use direct access, and which of
//! their resources change when a service changes.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;

use kermode_envoy::{Resource, generate};
use kermode_model::direct_access::{DirectAccess, EndpointAddresses};
use kermode_model::view::MeshView;
use kermode_model::{Dataplane, Mesh, MeshName, ObjectKey, ServiceName};

/// Published proxies with direct access, by mesh. A mesh without such proxies has no entry.
#[derive(Debug, Default)]
pub(super) struct DirectProxies(HashMap<MeshName, MeshProxies>);

/// Proxies of one mesh that have direct access.
#[derive(Debug)]
struct MeshProxies {
    /// Endpoints of the mesh, as of the last publication of the proxies' resources.
    endpoints: EndpointAddresses,
    /// Encoded clusters by address, which the proxies share.
    clusters: HashMap<SocketAddr, Resource>,
    proxies: HashMap<ObjectKey, DirectProxy>,
}

/// One proxy that has direct access.
#[derive(Debug)]
struct DirectProxy {
    access: DirectAccess,
    /// Addresses that the application may call directly.
    addresses: BTreeSet<SocketAddr>,
}

/// Resources for direct access of one proxy that changed.
#[derive(Debug)]
pub(super) struct DirectChanges {
    pub(super) proxy: ObjectKey,
    /// All addresses of the proxy, if an address was added or removed. The listeners contain the addresses.
    pub(super) addresses: Option<BTreeSet<SocketAddr>>,
    /// New clusters, and clusters that may have changed.
    pub(super) clusters: Vec<Resource>,
    /// Addresses whose clusters are removed.
    pub(super) removed: Vec<SocketAddr>,
}

/// Resources for direct access of one proxy.
#[derive(Debug)]
pub(super) struct DirectResources {
    pub(super) addresses: BTreeSet<SocketAddr>,
    pub(super) clusters: Vec<Resource>,
}

impl DirectProxies {
    /// Replaces the stored endpoints of a mesh with the endpoints of the view, after a change of the Mesh.
    pub(super) fn reload_mesh(&mut self, view: &MeshView, mesh: &MeshName) {
        if let Some(mesh_proxies) = self.0.get_mut(mesh) {
            mesh_proxies.endpoints = EndpointAddresses::of(view, mesh);
            mesh_proxies.clusters.clear();
        }
    }

    /// Updates the stored endpoints of `services`. Returns the changes of each proxy with direct access. The changes
    /// of a proxy may be empty.
    pub(super) fn update_services<'a>(
        &mut self,
        view: &MeshView,
        mesh: &MeshName,
        services: impl IntoIterator<Item = &'a ServiceName>,
    ) -> Vec<DirectChanges> {
        let (Some(mesh_proxies), Some(mesh)) = (self.0.get_mut(mesh), view.mesh(mesh)) else {
            return Vec::new();
        };
        let MeshProxies {
            endpoints,
            clusters,
            proxies,
        } = mesh_proxies;
        let mut changed_addresses = BTreeSet::new();
        for service in services {
            changed_addresses.extend(endpoints.update(service, view.service(&mesh.name, service)));
        }
        for address in &changed_addresses {
            clusters.remove(address);
        }
        let changes = proxies.iter_mut().map(|(key, proxy)| {
            let (present, absent): (Vec<_>, Vec<_>) = changed_addresses
                .iter()
                .copied()
                .partition(|address| proxy.access.includes(endpoints, *address));
            let added = present
                .iter()
                .filter(|address| proxy.addresses.insert(**address))
                .count();
            let removed: Vec<_> = absent
                .into_iter()
                .filter(|address| proxy.addresses.remove(address))
                .collect();
            let present = present.into_iter();
            DirectChanges {
                proxy: key.clone(),
                addresses: (added + removed.len() > 0).then(|| proxy.addresses.clone()),
                clusters: present
                    .map(|address| shared_cluster(clusters, mesh, endpoints, address))
                    .collect(),
                removed,
            }
        });
        changes.collect()
    }

    /// Registers a proxy, or removes it if it no longer has direct access. Returns the proxy's resources for direct
    /// access, or `None` without direct access.
    pub(super) fn register(
        &mut self,
        view: &MeshView,
        mesh: &Mesh,
        dataplane: &Dataplane,
    ) -> Option<DirectResources> {
        let Some(access) = DirectAccess::of(dataplane) else {
            self.remove(&dataplane.key);
            return None;
        };
        // The endpoints of the proxy's mesh stay, even if this is the only proxy with direct access.
        self.0.retain(|name, mesh_proxies| {
            *name == mesh.name || {
                mesh_proxies.proxies.remove(&dataplane.key);
                !mesh_proxies.proxies.is_empty()
            }
        });
        let mesh_proxies = self.0.entry(mesh.name.clone());
        let MeshProxies {
            endpoints,
            clusters,
            proxies,
        } = mesh_proxies.or_insert_with(|| MeshProxies {
            endpoints: EndpointAddresses::of(view, &mesh.name),
            clusters: HashMap::new(),
            proxies: HashMap::new(),
        });
        let addresses = access.addresses(endpoints);
        let resources = DirectResources {
            clusters: addresses
                .iter()
                .map(|address| shared_cluster(clusters, mesh, endpoints, *address))
                .collect(),
            addresses: addresses.clone(),
        };
        proxies.insert(dataplane.key.clone(), DirectProxy { access, addresses });
        Some(resources)
    }

    /// Removes a proxy.
    pub(super) fn remove(&mut self, proxy: &ObjectKey) {
        self.0.retain(|_, mesh_proxies| {
            mesh_proxies.proxies.remove(proxy);
            !mesh_proxies.proxies.is_empty()
        });
    }
}

/// Returns the cluster of an address. It is encoded once for all proxies.
fn shared_cluster(
    clusters: &mut HashMap<SocketAddr, Resource>,
    mesh: &Mesh,
    endpoints: &EndpointAddresses,
    address: SocketAddr,
) -> Resource {
    let cluster = clusters.entry(address);
    let cluster = cluster
        .or_insert_with(|| generate::direct_access_cluster(mesh, address, endpoints.services_at(address)));
    cluster.clone()
}
