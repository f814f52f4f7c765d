//! Direct access to Pods (`kuma.io/direct-access-services`): which published proxies use direct access, and which of
//! their listeners change when a service changes.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;

use kermode_model::direct_access::{DirectAccess, EndpointAddresses};
use kermode_model::view::MeshView;
use kermode_model::{Dataplane, MeshName, ObjectKey, ServiceName};

/// Published proxies with direct access, by mesh. A mesh without such proxies has no entry.
#[derive(Debug, Default)]
pub(super) struct DirectProxies(HashMap<MeshName, MeshProxies>);

/// Proxies of one mesh that have direct access.
#[derive(Debug)]
struct MeshProxies {
    /// Endpoints of the mesh, as of the last publication of the proxies' listeners.
    addresses: EndpointAddresses,
    proxies: HashMap<ObjectKey, DirectAccess>,
}

/// Changes of the direct-access listeners of one proxy.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ListenerChanges {
    pub(super) proxy: ObjectKey,
    /// Changed addresses for which the proxy must have a listener now.
    pub(super) present: Vec<SocketAddr>,
    /// Changed addresses for which the proxy must have no listener now.
    pub(super) absent: Vec<SocketAddr>,
}

impl DirectProxies {
    /// Replaces the stored endpoints of a mesh with the endpoints of the view.
    pub(super) fn reload_mesh(&mut self, view: &MeshView, mesh: &MeshName) {
        if let Some(mesh_proxies) = self.0.get_mut(mesh) {
            mesh_proxies.addresses = EndpointAddresses::of(view, mesh);
        }
    }

    /// Updates the stored endpoints of `services`. Returns the listener changes of each proxy with direct access. The
    /// changes of a proxy may be empty.
    pub(super) fn update_services<'a>(
        &mut self,
        view: &MeshView,
        mesh: &MeshName,
        services: impl IntoIterator<Item = &'a ServiceName>,
    ) -> Vec<ListenerChanges> {
        let Some(MeshProxies { addresses, proxies }) = self.0.get_mut(mesh) else {
            return Vec::new();
        };
        let mut changed_addresses = BTreeSet::new();
        for service in services {
            changed_addresses.extend(addresses.update(service, view.service(mesh, service)));
        }
        let changes = proxies.iter().map(|(proxy, access)| {
            let (present, absent) = changed_addresses
                .iter()
                .partition(|address| access.includes(addresses, **address));
            ListenerChanges {
                proxy: proxy.clone(),
                present,
                absent,
            }
        });
        changes.collect()
    }

    /// Registers a proxy, or removes it if it no longer has direct access. Returns the addresses that the proxy may
    /// call directly, or `None` without direct access.
    pub(super) fn register(
        &mut self,
        view: &MeshView,
        dataplane: &Dataplane,
    ) -> Option<BTreeSet<SocketAddr>> {
        self.remove(&dataplane.key);
        let access = DirectAccess::of(dataplane)?;
        let mesh_proxies = self.0.entry(dataplane.mesh.clone());
        let mesh_proxies = mesh_proxies.or_insert_with(|| MeshProxies {
            addresses: EndpointAddresses::of(view, &dataplane.mesh),
            proxies: HashMap::new(),
        });
        let addresses = access.addresses(&mesh_proxies.addresses);
        mesh_proxies.proxies.insert(dataplane.key.clone(), access);
        Some(addresses)
    }

    /// Removes a proxy.
    pub(super) fn remove(&mut self, proxy: &ObjectKey) {
        self.0.retain(|_, mesh_proxies| {
            mesh_proxies.proxies.remove(proxy);
            !mesh_proxies.proxies.is_empty()
        });
    }
}
