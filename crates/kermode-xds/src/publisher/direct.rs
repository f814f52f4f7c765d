//! Direct access to Pods: proxies that have it, and the effect of a service's change on the listeners of each.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;

use kermode_model::direct_access::{DirectAccess, EndpointAddresses};
use kermode_model::view::MeshView;
use kermode_model::{Dataplane, MeshName, ObjectKey, ServiceName};

/// Published proxies with direct access, by mesh. A mesh without such proxies has no entry.
#[derive(Debug, Default)]
pub(super) struct DirectProxies(HashMap<MeshName, MeshProxies>);

#[derive(Debug)]
struct MeshProxies {
    /// Endpoints of the mesh from which the listeners of the proxies were published.
    addresses: EndpointAddresses,
    proxies: HashMap<ObjectKey, DirectAccess>,
}

/// Changes of the direct-access listeners of one proxy.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ListenerChanges {
    pub(super) proxy: ObjectKey,
    /// Addresses that need a listener.
    pub(super) present: Vec<SocketAddr>,
    /// Addresses without a listener.
    pub(super) absent: Vec<SocketAddr>,
}

impl DirectProxies {
    /// Reads all services of a mesh again.
    pub(super) fn reload_mesh(&mut self, view: &MeshView, mesh: &MeshName) {
        if let Some(of_mesh) = self.0.get_mut(mesh) {
            of_mesh.addresses = EndpointAddresses::of(view, mesh);
        }
    }

    /// Reads some services of a mesh again and returns the effects on its proxies.
    pub(super) fn update_services<'a>(
        &mut self,
        view: &MeshView,
        mesh: &MeshName,
        services: impl IntoIterator<Item = &'a ServiceName>,
    ) -> Vec<ListenerChanges> {
        let Some(MeshProxies { addresses, proxies }) = self.0.get_mut(mesh) else {
            return Vec::new();
        };
        let mut touched = BTreeSet::new();
        for service in services {
            touched.extend(addresses.update(service, view.service(mesh, service)));
        }
        let changes = proxies.iter().map(|(proxy, access)| {
            let (present, absent) = touched
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

    /// Registers a proxy, or removes it if it no longer has direct access. Returns the addresses that the proxy calls
    /// directly, or `None` without direct access.
    pub(super) fn register(
        &mut self,
        view: &MeshView,
        dataplane: &Dataplane,
    ) -> Option<BTreeSet<SocketAddr>> {
        self.remove(&dataplane.key);
        let access = DirectAccess::of(dataplane)?;
        let of_mesh = self.0.entry(dataplane.mesh.clone());
        let of_mesh = of_mesh.or_insert_with(|| MeshProxies {
            addresses: EndpointAddresses::of(view, &dataplane.mesh),
            proxies: HashMap::new(),
        });
        let addresses = access.addresses(&of_mesh.addresses);
        of_mesh.proxies.insert(dataplane.key.clone(), access);
        Some(addresses)
    }

    /// Removes a proxy.
    pub(super) fn remove(&mut self, proxy: &ObjectKey) {
        self.0.retain(|_, of_mesh| {
            of_mesh.proxies.remove(proxy);
            !of_mesh.proxies.is_empty()
        });
    }
}
