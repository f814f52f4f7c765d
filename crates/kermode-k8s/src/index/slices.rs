//! Endpoints of Services without selector, which users and operators write into EndpointSlices
//! (docs/reference/dataplane.md#services-without-selector).
//!
//! An endpoint whose address and port are those of an inbound has the identity of the inbound's service. The endpoints
//! therefore depend on three kinds of objects: the Service, its EndpointSlices, and the Pods with their addresses.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use kermode_model::view::{MeshView, SliceEndpoint, Touched};
use kermode_model::{MeshName, ObjectKey, ServiceName};

use super::Index;
use super::changes::Changes;
use crate::convert::facts::{EndpointSliceFacts, PodFacts, ServiceFacts, ServicePortFacts};

/// EndpointSlices of Services without selector.
#[derive(Debug, Default)]
pub(super) struct Slices {
    pub(super) by_key: HashMap<ObjectKey, EndpointSliceFacts>,
    /// Names of the EndpointSlices of each Service.
    by_service: HashMap<ObjectKey, BTreeSet<Arc<str>>>,
    /// Services whose EndpointSlices contain an IP, with the number of these EndpointSlices.
    services_by_ip: HashMap<IpAddr, HashMap<ObjectKey, usize>>,
    /// Services in the mesh view that have their endpoints from the EndpointSlices of a Service.
    in_view: HashMap<ObjectKey, BTreeSet<(MeshName, ServiceName)>>,
}

/// Endpoints of each port of a Service, for each mesh.
type EndpointsByMesh = BTreeMap<(MeshName, ServiceName), BTreeMap<SocketAddr, SliceEndpoint>>;

// === impl Slices ===

impl Slices {
    /// Adds, replaces or removes an EndpointSlice. Returns the Services that it belonged to and belongs to.
    fn replace(&mut self, key: &ObjectKey, new: Option<EndpointSliceFacts>) -> HashSet<ObjectKey> {
        let mut services = HashSet::new();
        if let Some(old) = self.by_key.remove(key) {
            let service = service_of(&old);
            if let Some(names) = self.by_service.get_mut(&service) {
                names.remove(&key.name);
                if names.is_empty() {
                    self.by_service.remove(&service);
                }
            }
            for ip in ips(&old) {
                self.remove_ip(ip, &service);
            }
            services.insert(service);
        }
        if let Some(new) = new {
            let service = service_of(&new);
            let names = self.by_service.entry(service.clone()).or_default();
            names.insert(key.name.clone());
            for ip in ips(&new) {
                let services = self.services_by_ip.entry(ip).or_default();
                *services.entry(service.clone()).or_default() += 1;
            }
            services.insert(service);
            self.by_key.insert(key.clone(), new);
        }
        services
    }

    fn remove_ip(&mut self, ip: IpAddr, service: &ObjectKey) {
        let Some(services) = self.services_by_ip.get_mut(&ip) else {
            return;
        };
        if let Some(count) = services.get_mut(service) {
            *count -= 1;
            if *count == 0 {
                services.remove(service);
            }
        }
        if services.is_empty() {
            self.services_by_ip.remove(&ip);
        }
    }

    /// Returns the Services whose EndpointSlices contain an IP of a Pod.
    pub(super) fn services_at<'s>(&'s self, pod: &'s PodFacts) -> impl Iterator<Item = &'s ObjectKey> {
        let ips = pod.held_ips().filter(|_| !self.services_by_ip.is_empty());
        ips.filter_map(|ip| self.services_by_ip.get(&ip))
            .flat_map(HashMap::keys)
    }

    /// Returns the addresses that the EndpointSlices of a Service contain for a port. An address is ready if one
    /// EndpointSlice says so.
    fn addresses(&self, service: &ServiceFacts, port: &ServicePortFacts) -> BTreeMap<SocketAddr, bool> {
        let mut addresses = BTreeMap::new();
        let names = self.by_service.get(&service.key).into_iter().flatten();
        let keys = names.map(|name| ObjectKey::new(service.key.namespace.clone(), name.clone()));
        for slice in keys.filter_map(|key| self.by_key.get(&key)) {
            let numbers = slice.ports.iter().filter(|(name, _)| *name == port.name);
            for (_, number) in numbers {
                for (ip, is_ready) in &slice.endpoints {
                    *addresses.entry(SocketAddr::new(*ip, *number)).or_default() |= is_ready;
                }
            }
        }
        addresses
    }

    /// Writes the endpoints of a Service into the mesh view.
    fn write_to_view(
        &mut self,
        service: &ObjectKey,
        endpoints: EndpointsByMesh,
        view: &mut MeshView,
    ) -> Vec<Touched> {
        let mut touched = Vec::new();
        for (mesh, name) in self.in_view.remove(service).unwrap_or_default() {
            if !endpoints.contains_key(&(mesh.clone(), name.clone())) {
                touched.extend(view.set_slice_endpoints(&mesh, &name, BTreeMap::new()));
            }
        }
        if !endpoints.is_empty() {
            self.in_view
                .insert(service.clone(), endpoints.keys().cloned().collect());
        }
        for ((mesh, name), endpoints) in endpoints {
            touched.extend(view.set_slice_endpoints(&mesh, &name, endpoints));
        }
        touched
    }
}

// === impl Index ===

impl Index {
    /// Adds or replaces an EndpointSlice that Kubernetes does not derive from the selector of a Service.
    pub fn apply_endpoint_slice(&mut self, slice: EndpointSliceFacts) -> Changes {
        if self.slices.by_key.get(&slice.key) == Some(&slice) {
            return Changes::default();
        }
        self.replace_endpoint_slice(&slice.key.clone(), Some(slice))
    }

    /// Removes an EndpointSlice.
    pub fn remove_endpoint_slice(&mut self, key: &ObjectKey) -> Changes {
        self.replace_endpoint_slice(key, None)
    }

    fn replace_endpoint_slice(&mut self, key: &ObjectKey, new: Option<EndpointSliceFacts>) -> Changes {
        let services = self.slices.replace(key, new);
        self.update_slice_endpoints(services)
    }

    /// Updates the endpoints of Services from their EndpointSlices. The other Services have no endpoints of this kind.
    pub(super) fn update_slice_endpoints(
        &mut self,
        services: impl IntoIterator<Item = ObjectKey>,
    ) -> Changes {
        let mut touched = Vec::new();
        for key in services {
            let service = self
                .services
                .get(&key)
                .filter(|service| service.takes_endpoints_from_slices());
            let endpoints = service.map(|service| self.slice_endpoints(service));
            let endpoints = endpoints.unwrap_or_default();
            touched.extend(self.slices.write_to_view(&key, endpoints, &mut self.view));
        }
        Changes::of_view(touched)
    }

    /// Returns the endpoints of a Service without selector in each mesh with at least one of these endpoints. In the
    /// view of a mesh, all other endpoints are outside of the mesh.
    fn slice_endpoints(&self, service: &ServiceFacts) -> EndpointsByMesh {
        let mut by_mesh = EndpointsByMesh::new();
        for port in &service.ports {
            let addresses = self.slices.addresses(service, port);
            let services_by_address: BTreeMap<_, _> = addresses
                .keys()
                .filter_map(|address| Some((*address, self.service_at(*address)?)))
                .collect();
            let meshes: BTreeSet<_> = services_by_address.values().map(|(mesh, _)| mesh).collect();
            for mesh in meshes {
                let endpoint = |(address, is_ready): (&SocketAddr, &bool)| {
                    let owner = services_by_address.get(address).filter(|(of, _)| of == mesh);
                    let endpoint = SliceEndpoint {
                        identity: owner.map(|(_, service)| service.clone()),
                        ready: *is_ready,
                    };
                    (*address, endpoint)
                };
                let endpoints = addresses.iter().map(endpoint).collect();
                by_mesh.insert((mesh.clone(), port.service_name().clone()), endpoints);
            }
        }
        by_mesh
    }

    /// Returns the mesh and the service of the inbound at an address; `None` if no Dataplane has the address, or if the
    /// Dataplane has no inbound at the port.
    fn service_at(&self, address: SocketAddr) -> Option<(MeshName, ServiceName)> {
        let mut pods = self.ip_claims.pods(address.ip());
        let owner = pods.find(|pod| !self.is_ip_taken(pod))?;
        let dataplane = self.view.dataplane(owner)?;
        let mut inbounds = dataplane.inbounds.iter();
        let service = inbounds
            .find(|inbound| inbound.port == address.port())?
            .service()?;
        Some((dataplane.mesh.clone(), service))
    }
}

fn service_of(slice: &EndpointSliceFacts) -> ObjectKey {
    ObjectKey::new(slice.key.namespace.clone(), slice.service.clone())
}

/// Returns the IPs of an EndpointSlice, without duplicates.
fn ips(slice: &EndpointSliceFacts) -> HashSet<IpAddr> {
    slice.endpoints.iter().map(|(ip, _)| *ip).collect()
}
