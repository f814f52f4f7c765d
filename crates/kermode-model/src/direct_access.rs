//! Direct access: the application calls Pods by their IPs (`kuma.io/direct-access-services`). This module computes the
//! addresses at which the proxy intercepts these calls.
//!
//! The publisher in `kermode-xds` keeps one [`EndpointAddresses`] for each mesh with proxies that use direct access,
//! and updates it with every service that a change touched. The publisher then evaluates the [`DirectAccess`] of each
//! proxy only for the addresses that changed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;

use crate::view::{MeshView, Service};
use crate::{Dataplane, MeshName, ObjectKey, ServiceName};

/// Entry of [`TransparentProxying::direct_access_services`](crate::TransparentProxying::direct_access_services) that
/// selects all services.
pub const ALL_SERVICES: &str = "*";

/// Endpoints of all services of one mesh, by address and by service.
#[derive(Debug, Default)]
pub struct EndpointAddresses {
    by_address: HashMap<SocketAddr, BTreeMap<ServiceName, ServiceEndpoint>>,
    by_service: HashMap<ServiceName, BTreeSet<SocketAddr>>,
}

/// Endpoint of one service at an address.
#[derive(Debug, PartialEq, Eq)]
struct ServiceEndpoint {
    /// Dataplane of the endpoint; `None` for an endpoint from an EndpointSlice, which is not called by direct access.
    dataplane: Option<ObjectKey>,
    /// Whether the service is headless.
    headless: bool,
}

/// Direct access that one proxy provides to its application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectAccess {
    /// Dataplane of the proxy.
    proxy: ObjectKey,
    /// Services called by Pod IP; `None` for all services.
    services: Option<BTreeSet<ServiceName>>,
    /// Services for which the proxy has outbound listeners; `None` for all services.
    reachable: Option<BTreeSet<ServiceName>>,
}

// === impl EndpointAddresses ===

impl EndpointAddresses {
    /// Indexes the endpoints of all services of a mesh.
    pub fn of(view: &MeshView, mesh: &MeshName) -> Self {
        let mut addresses = Self::default();
        for (name, service) in view.services(mesh) {
            addresses.update(name, Some(service));
        }
        addresses
    }

    /// Replaces the endpoints of a service, unready ones included; `None` removes them. Returns the addresses whose
    /// endpoint was added, removed or changed.
    ///
    /// Of the endpoints from EndpointSlices, only those with an outbound listener at their own address count: endpoints of
    /// a headless service that are inside the mesh.
    pub fn update(&mut self, name: &ServiceName, service: Option<&Service>) -> BTreeSet<SocketAddr> {
        let mut stale = self.by_service.remove(name).unwrap_or_default();
        let mut changed = BTreeSet::new();
        let mut current = BTreeSet::new();
        let headless = service.is_some_and(|service| service.addresses.headless);
        let of_pods = service.into_iter().flat_map(|service| &service.endpoints);
        let of_pods = of_pods.map(|(address, endpoint)| (address, Some(endpoint.dataplane.clone())));
        let of_slices = service.into_iter().flat_map(|service| &service.slice_endpoints);
        let of_slices = of_slices.filter(|(_, endpoint)| headless && endpoint.identity.is_some());
        for (address, dataplane) in of_pods.chain(of_slices.map(|(address, _)| (address, None))) {
            stale.remove(address);
            current.insert(*address);
            let endpoint = ServiceEndpoint { dataplane, headless };
            let at_address = self.by_address.entry(*address).or_default();
            if at_address.get(name) != Some(&endpoint) {
                at_address.insert(name.clone(), endpoint);
                changed.insert(*address);
            }
        }
        for address in &stale {
            self.remove(name, *address);
        }
        if !current.is_empty() {
            self.by_service.insert(name.clone(), current);
        }
        changed.extend(stale);
        changed
    }

    /// Services of the Pod that has an endpoint at the address, in alphabetical order. The certificate of the Pod's
    /// proxy contains the identities of these services.
    pub fn services_at(&self, address: SocketAddr) -> impl Iterator<Item = &ServiceName> {
        let at_address = self.by_address.get(&address).into_iter().flatten();
        at_address
            .filter(|(_, endpoint)| endpoint.dataplane.is_some())
            .map(|(name, _)| name)
    }

    fn remove(&mut self, name: &ServiceName, address: SocketAddr) {
        if let Some(at_address) = self.by_address.get_mut(&address) {
            at_address.remove(name);
            if at_address.is_empty() {
                self.by_address.remove(&address);
            }
        }
    }
}

// === impl DirectAccess ===

impl DirectAccess {
    /// Direct access that a Dataplane declares; `None` if the Dataplane declares no service.
    pub fn of(dataplane: &Dataplane) -> Option<Self> {
        let settings = dataplane.transparent_proxying.as_ref()?;
        let called_services = &settings.direct_access_services;
        if called_services.is_empty() {
            return None;
        }
        let to_set = |names: &[String]| {
            names
                .iter()
                .map(|name| ServiceName::from(name.as_str()))
                .collect()
        };
        let selects_all = called_services.iter().any(|name| name == ALL_SERVICES);
        Some(Self {
            proxy: dataplane.key.clone(),
            services: (!selects_all).then(|| to_set(called_services)),
            reachable: dataplane.reachable_services().map(to_set),
        })
    }

    /// Whether the proxy provides direct access to the Pods of a service.
    pub fn selects(&self, service: &ServiceName) -> bool {
        self.services
            .as_ref()
            .is_none_or(|services| services.contains(service))
    }

    /// All addresses at which the proxy intercepts calls for direct access.
    pub fn addresses(&self, endpoints: &EndpointAddresses) -> BTreeSet<SocketAddr> {
        let mut addresses: BTreeSet<SocketAddr> = match &self.services {
            None => endpoints.by_address.keys().copied().collect(),
            Some(services) => {
                let of_services = services.iter().filter_map(|name| endpoints.by_service.get(name));
                of_services.flatten().copied().collect()
            }
        };
        addresses.retain(|address| self.includes(endpoints, *address));
        addresses
    }

    /// Whether the proxy intercepts calls for direct access at an address.
    ///
    /// True if a service called by Pod IP has an endpoint of another Pod at the address, and the proxy has no outbound
    /// listener for the address. The proxy has outbound listeners for the endpoints of reachable headless services.
    pub fn includes(&self, endpoints: &EndpointAddresses, address: SocketAddr) -> bool {
        let Some(at_address) = endpoints.by_address.get(&address) else {
            return false;
        };
        // `None` includes all services.
        let set_includes = |names: &Option<BTreeSet<ServiceName>>, name: &ServiceName| {
            names.as_ref().is_none_or(|names| names.contains(name))
        };
        let is_called = at_address.iter().any(|(name, endpoint)| {
            let is_of_another_pod = endpoint
                .dataplane
                .as_ref()
                .is_some_and(|dataplane| *dataplane != self.proxy);
            set_includes(&self.services, name) && is_of_another_pod
        });
        let has_outbound_listener = at_address
            .iter()
            .any(|(name, endpoint)| set_includes(&self.reachable, name) && endpoint.headless);
        is_called && !has_outbound_listener
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::{AddressPosition, Endpoint, ServiceAddresses, SliceEndpoint};
    use crate::{Protocol, Tags};

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 80))
    }

    fn mk_service(headless: bool, endpoints: &[(u8, &str)]) -> Service {
        let endpoint = |(last, pod): &(u8, &str)| {
            let endpoint = Endpoint {
                dataplane: ObjectKey::new("demo", *pod),
                position: AddressPosition::Only,
                tags: Tags::new(),
                protocol: Protocol::Tcp,
                ready: false,
            };
            (address(*last), endpoint)
        };
        Service {
            addresses: ServiceAddresses {
                headless,
                ..ServiceAddresses::default()
            },
            endpoints: endpoints.iter().map(endpoint).collect(),
            ..Service::default()
        }
    }

    fn mk_access(services: Option<&[&str]>, reachable: Option<&[&str]>) -> DirectAccess {
        let names = |names: &[&str]| names.iter().map(|name| ServiceName::from(*name)).collect();
        DirectAccess {
            proxy: ObjectKey::new("demo", "client"),
            services: services.map(names),
            reachable: reachable.map(names),
        }
    }

    #[test]
    fn update_returns_the_addresses_that_changed() {
        let mut addresses = EndpointAddresses::default();
        let name = ServiceName::from("web");
        let original = mk_service(false, &[(1, "a"), (2, "b")]);
        assert_eq!(
            addresses.update(&name, Some(&original)),
            [address(1), address(2)].into()
        );
        assert_eq!(addresses.update(&name, Some(&original)), [].into());
        let replaced = mk_service(false, &[(2, "b"), (3, "c")]);
        assert_eq!(
            addresses.update(&name, Some(&replaced)),
            [address(1), address(3)].into()
        );
        let headless = mk_service(true, &[(2, "b"), (3, "c")]);
        assert_eq!(
            addresses.update(&name, Some(&headless)),
            [address(2), address(3)].into()
        );
        assert_eq!(addresses.update(&name, None), [address(2), address(3)].into());
        assert!(addresses.by_address.is_empty() && addresses.by_service.is_empty());
    }

    #[test]
    fn endpoints_of_the_own_pod_and_of_reachable_headless_services_are_excluded() {
        let mut addresses = EndpointAddresses::default();
        let web = mk_service(false, &[(1, "client"), (2, "web-0"), (3, "db-0")]);
        addresses.update(&"web".into(), Some(&web));
        addresses.update(&"db".into(), Some(&mk_service(true, &[(3, "db-0")])));
        let all = mk_access(None, None);
        assert_eq!(all.addresses(&addresses), [address(2)].into());
        // The proxy has no outbound listeners for db, which is not reachable.
        let without_listener_of_db = mk_access(None, Some(&["web"]));
        assert_eq!(
            without_listener_of_db.addresses(&addresses),
            [address(2), address(3)].into()
        );
        let only_db = mk_access(Some(&["db"]), Some(&["web"]));
        assert_eq!(only_db.addresses(&addresses), [address(3)].into());
    }
    #[test]
    fn endpoints_in_the_mesh_of_a_headless_service_without_selector_have_outbound_listeners() {
        let mut addresses = EndpointAddresses::default();
        let web = mk_service(false, &[(1, "web-0"), (2, "web-1"), (3, "web-2")]);
        addresses.update(&"web".into(), Some(&web));
        let endpoint = |identity: Option<&str>| SliceEndpoint {
            identity: identity.map(ServiceName::from),
            ready: true,
        };
        let mut leader = mk_service(true, &[]);
        leader.slice_endpoints = [(address(1), endpoint(Some("web"))), (address(9), endpoint(None))].into();
        let changed = addresses.update(&"leader".into(), Some(&leader));
        assert_eq!(changed, [address(1)].into());
        let all = mk_access(None, None);
        assert_eq!(all.addresses(&addresses), [address(2), address(3)].into());
        // With a ClusterIP, the listener is at the ClusterIP.
        leader.addresses.headless = false;
        addresses.update(&"leader".into(), Some(&leader));
        assert_eq!(
            all.addresses(&addresses),
            [address(1), address(2), address(3)].into()
        );
    }
}
