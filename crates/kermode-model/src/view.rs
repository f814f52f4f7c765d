//! The mesh view: all meshes, Dataplanes, services and permissions. The generators in `kermode-envoy` read the view.
//!
//! The index in `kermode-k8s` writes whole objects. Each write compares the object with its last state and returns the
//! [`Touched`] parts of the view, whose Envoy resources must be regenerated. The cost of a write depends on the touched
//! parts, not on the size of the mesh. Only a write of a permission visits all Dataplanes of its mesh.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use crate::{
    Dataplane, Inbound, Mesh, MeshName, ObjectKey, PermissionSet, Protocol, ServiceName, Tags,
    TrafficPermission, VIRTUAL_IP_PORT, VirtualIps,
};

/// All meshes, Dataplanes, services and permissions of the control plane.
#[derive(Debug, Default)]
pub struct MeshView {
    meshes: HashMap<MeshName, MeshEntry>,
    dataplanes: HashMap<ObjectKey, Arc<Dataplane>>,
    /// Dataplanes whose inbounds are no endpoints, because their address belongs to another Pod now.
    without_endpoints: HashSet<ObjectKey>,
    /// Addresses of all services with a Kubernetes Service, including services without an endpoint in any mesh.
    addresses: HashMap<ServiceName, ServiceAddresses>,
    /// Service of each ClusterIP and service port.
    by_address: HashMap<SocketAddr, ServiceName>,
    /// Virtual IPs of each mesh, including those of services without an endpoint and of Meshes that do not exist.
    virtual_ips: HashMap<MeshName, VirtualIps>,
}

/// Addresses of a service, from its Kubernetes Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceAddresses {
    /// ClusterIP and service port, one for each IP family.
    pub cluster_addresses: Vec<SocketAddr>,
    /// Whether the Kubernetes Service is headless (ClusterIP `None`): clients connect to the IPs of its Pods.
    pub headless: bool,
    /// Choice of the endpoint for a connection to a ClusterIP.
    pub balancing: Balancing,
}

/// Choice of the endpoint for a connection or request to a ClusterIP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Balancing {
    /// Each ready endpoint in turn.
    #[default]
    RoundRobin,
    /// One endpoint for each client Pod, as long as the endpoint is ready.
    ByClient,
    /// The client's sidecar chooses no endpoint: it connects to the ClusterIP, and the client's node (kube-proxy)
    /// chooses one of the endpoints that the Service allows or prefers for clients on this node.
    LeftToNode,
}

/// One service of a mesh.
#[derive(Clone, Debug, Default)]
pub struct Service {
    /// Addresses that clients call.
    pub addresses: ServiceAddresses,
    /// Endpoints by Pod IP and container port, unready endpoints included. An inbound of a dual-stack Pod is an
    /// endpoint at each of the Pod's IPs.
    pub endpoints: BTreeMap<SocketAddr, Endpoint>,
    /// Endpoints from the EndpointSlices of a Kubernetes Service without selector. A service with these endpoints has
    /// no other endpoints.
    pub slice_endpoints: BTreeMap<SocketAddr, SliceEndpoint>,
    /// Virtual IP; `None` as long as the leader has not allocated one.
    pub virtual_ip: Option<Ipv4Addr>,
}

/// Endpoint from an EndpointSlice that a user or operator wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceEndpoint {
    /// Service of the inbound at the address. The proxy there has the identity of this service. `None` if the address
    /// is outside of the mesh.
    pub identity: Option<ServiceName>,
    /// Whether the endpoint may receive traffic.
    pub ready: bool,
}

impl Service {
    fn is_empty(&self) -> bool {
        self.endpoints.is_empty() && self.slice_endpoints.is_empty()
    }

    /// Whether clients can call the service by a virtual IP. A service has no virtual IP if it has no address at all,
    /// such as that of a service-less Pod, or if only the client's node knows the endpoints and their identities. Clients
    /// call a service of the second kind by its ClusterIP.
    pub fn is_callable_by_virtual_ip(&self) -> bool {
        let addresses = &self.addresses;
        let only_node_knows_endpoints =
            self.endpoints.is_empty() && addresses.balancing == Balancing::LeftToNode;
        let has_address = addresses.headless || !addresses.cluster_addresses.is_empty();
        has_address && !only_node_knows_endpoints
    }

    /// Address of the service's name: the virtual IP, with its port. `None` if clients cannot call it.
    pub fn virtual_address(&self) -> Option<SocketAddr> {
        let ip = self.virtual_ip.filter(|_| self.is_callable_by_virtual_ip())?;
        Some(SocketAddr::new(ip.into(), VIRTUAL_IP_PORT))
    }

    /// The most specific protocol that [all endpoints have in common](Protocol::common); TCP if all endpoints
    /// come from EndpointSlices.
    pub fn protocol(&self) -> Protocol {
        self.endpoints
            .values()
            .map(|endpoint| endpoint.protocol)
            .reduce(Protocol::common)
            .unwrap_or_default()
    }

    /// The endpoints that may receive traffic, at one IP of each Pod. This is the first of the Pod's IPs whose IP
    /// family is also that of a ClusterIP, because Kubernetes gives a Service only endpoints of these families. If
    /// there is no such IP, it is the Pod's first IP.
    pub fn ready_endpoints(&self) -> impl Iterator<Item = (&SocketAddr, &Endpoint)> {
        let is_family_of_cluster_ip = |is_ipv6| {
            let mut cluster_addresses = self.addresses.cluster_addresses.iter();
            cluster_addresses.any(|address| address.is_ipv6() == is_ipv6)
        };
        // Indexed by whether the family is IPv6.
        let has_cluster_ip_of_family = [is_family_of_cluster_ip(false), is_family_of_cluster_ip(true)];
        self.endpoints.iter().filter(move |(address, endpoint)| {
            let has_cluster_ip_of_same_family = has_cluster_ip_of_family[usize::from(address.is_ipv6())];
            let has_cluster_ip_of_other_family = has_cluster_ip_of_family[usize::from(address.is_ipv4())];
            let is_chosen = match endpoint.position {
                AddressPosition::Only => true,
                AddressPosition::First => has_cluster_ip_of_same_family || !has_cluster_ip_of_other_family,
                AddressPosition::Second => has_cluster_ip_of_same_family && !has_cluster_ip_of_other_family,
            };
            endpoint.ready && is_chosen
        })
    }
}

/// Position of an address among the Pod's IPs. Kubernetes gives a Pod at most one IP of each family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressPosition {
    /// The Pod has one IP.
    Only,
    /// The first IP of a dual-stack Pod.
    First,
    /// The IP of the other family of a dual-stack Pod.
    Second,
}

/// One inbound of a service, at one of the Pod's IPs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Dataplane of the endpoint.
    pub dataplane: ObjectKey,
    /// Position of the endpoint's IP among the IPs of its Pod.
    pub position: AddressPosition,
    /// Tags of the inbound.
    pub tags: Tags,
    /// Protocol of the inbound; TCP if its tags declare no protocol.
    pub protocol: Protocol,
    /// Whether the endpoint may receive traffic.
    pub ready: bool,
}

/// A part of the view whose Envoy resources must be regenerated.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Touched {
    /// The Mesh resource: its settings of mTLS or passthrough. The resource may have been removed.
    Mesh(MeshName),
    /// The endpoints, addresses or protocol of a service. The service may have been removed.
    Service(MeshName, ServiceName),
    /// A Dataplane, except the health of its inbounds. The Dataplane may have been removed.
    Dataplane(ObjectKey),
    /// The permissions that apply to the inbounds of a Dataplane on this port.
    Inbound(ObjectKey, u16),
}

/// Objects of one mesh. The Mesh resource may be absent while other objects name the mesh.
#[derive(Debug, Default)]
struct MeshEntry {
    mesh: Option<Arc<Mesh>>,
    /// Services with at least one endpoint in the mesh. A service with endpoints from EndpointSlices may also have
    /// endpoints outside of the mesh.
    services: BTreeMap<ServiceName, Service>,
    dataplanes: HashSet<ObjectKey>,
    permissions: PermissionSet,
}

impl MeshEntry {
    fn is_empty(&self) -> bool {
        self.mesh.is_none()
            && self.services.is_empty()
            && self.dataplanes.is_empty()
            && self.permissions.is_empty()
    }
}

// === impl MeshView ===

impl MeshView {
    /// The Mesh resource with a name.
    pub fn mesh(&self, name: &MeshName) -> Option<&Arc<Mesh>> {
        self.meshes.get(name)?.mesh.as_ref()
    }

    /// All Mesh resources, in no order.
    pub fn meshes(&self) -> impl Iterator<Item = &Arc<Mesh>> {
        self.meshes.values().filter_map(|entry| entry.mesh.as_ref())
    }

    /// The permissions of a mesh.
    pub fn permissions(&self, name: &MeshName) -> &PermissionSet {
        static EMPTY: PermissionSet = PermissionSet::new();
        self.meshes.get(name).map_or(&EMPTY, |entry| &entry.permissions)
    }

    /// A Dataplane by its key.
    pub fn dataplane(&self, key: &ObjectKey) -> Option<&Arc<Dataplane>> {
        self.dataplanes.get(key)
    }

    /// All Dataplanes, in no order.
    pub fn dataplanes(&self) -> impl Iterator<Item = &Arc<Dataplane>> {
        self.dataplanes.values()
    }

    /// The Dataplanes of a mesh, in no order.
    pub fn dataplanes_of(&self, mesh: &MeshName) -> impl Iterator<Item = &Arc<Dataplane>> {
        let keys = self
            .meshes
            .get(mesh)
            .into_iter()
            .flat_map(|entry| &entry.dataplanes);
        keys.filter_map(|key| self.dataplanes.get(key))
    }

    /// A service of a mesh. The service exists while it has an endpoint in the mesh.
    pub fn service(&self, mesh: &MeshName, name: &ServiceName) -> Option<&Service> {
        self.meshes.get(mesh)?.services.get(name)
    }

    /// All services of a mesh, by name.
    pub fn services(&self, mesh: &MeshName) -> impl Iterator<Item = (&ServiceName, &Service)> {
        self.meshes
            .get(mesh)
            .into_iter()
            .flat_map(|entry| &entry.services)
    }

    /// The service at a ClusterIP and service port.
    pub fn service_at(&self, address: SocketAddr) -> Option<&ServiceName> {
        self.by_address.get(&address)
    }

    /// Adds or replaces a Mesh resource.
    pub fn upsert_mesh(&mut self, mesh: Mesh) -> Vec<Touched> {
        let entry = self.meshes.entry(mesh.name.clone()).or_default();
        if entry.mesh.as_deref() == Some(&mesh) {
            return Vec::new();
        }
        let name = mesh.name.clone();
        entry.mesh = Some(Arc::new(mesh));
        vec![Touched::Mesh(name)]
    }

    /// Removes a Mesh resource. The Dataplanes and permissions of the mesh stay in the view. They apply again if a Mesh
    /// with the same name is created.
    pub fn remove_mesh(&mut self, name: &MeshName) -> Vec<Touched> {
        let Some(entry) = self.meshes.get_mut(name) else {
            return Vec::new();
        };
        if entry.mesh.take().is_none() {
            return Vec::new();
        }
        if entry.is_empty() {
            self.meshes.remove(name);
        }
        vec![Touched::Mesh(name.clone())]
    }

    /// Adds or replaces a permission of a mesh. Touches the inbounds that the old or the new permission selects.
    pub fn upsert_permission(
        &mut self,
        key: &ObjectKey,
        mesh: &MeshName,
        permission: TrafficPermission,
    ) -> Vec<Touched> {
        if self.permissions(mesh).get(key) == Some(&permission) {
            return Vec::new();
        }
        let mut touched: BTreeSet<_> = self.remove_permission(key).into_iter().collect();
        touched.extend(self.selected_inbounds(mesh, &permission));
        let entry = self.meshes.entry(mesh.clone()).or_default();
        entry.permissions.insert(key.clone(), permission);
        touched.into_iter().collect()
    }

    /// Removes a permission from its mesh. Touches the inbounds that the permission selects.
    pub fn remove_permission(&mut self, key: &ObjectKey) -> Vec<Touched> {
        let mut meshes = self.meshes.iter_mut();
        let removed = meshes.find_map(|(mesh, entry)| Some((mesh.clone(), entry.permissions.remove(key)?)));
        let Some((mesh, permission)) = removed else {
            return Vec::new();
        };
        if self.meshes.get(&mesh).is_some_and(MeshEntry::is_empty) {
            self.meshes.remove(&mesh);
        }
        self.selected_inbounds(&mesh, &permission)
    }

    /// The inbounds of a mesh to which a permission applies, sorted, without duplicates. The placeholder inbound of a
    /// service-less Pod is omitted, because this inbound has no listener.
    fn selected_inbounds(&self, mesh: &MeshName, permission: &TrafficPermission) -> Vec<Touched> {
        let mut selected = BTreeSet::new();
        for dataplane in self.dataplanes_of(mesh) {
            let inbounds = dataplane.inbounds.iter();
            let inbounds =
                inbounds.filter(|inbound| !inbound.is_placeholder() && permission.selects(&inbound.tags));
            selected.extend(inbounds.map(|inbound| Touched::Inbound(dataplane.key.clone(), inbound.port)));
        }
        selected.into_iter().collect()
    }

    /// Sets the addresses of a service; `None` when its Kubernetes Service was removed.
    pub fn set_addresses(&mut self, name: &ServiceName, addresses: Option<ServiceAddresses>) -> Vec<Touched> {
        if self.addresses.get(name) == addresses.as_ref() {
            return Vec::new();
        }
        if let Some(old) = self.addresses.remove(name) {
            for address in &old.cluster_addresses {
                // The ClusterIP may have been reassigned to another Service.
                if self.by_address.get(address) == Some(name) {
                    self.by_address.remove(address);
                }
            }
        }
        if let Some(new) = &addresses {
            for address in &new.cluster_addresses {
                self.by_address.insert(*address, name.clone());
            }
            self.addresses.insert(name.clone(), new.clone());
        }
        let mut touched = Vec::new();
        for (mesh, entry) in &mut self.meshes {
            if let Some(service) = entry.services.get_mut(name) {
                service.addresses = addresses.clone().unwrap_or_default();
                touched.push(Touched::Service(mesh.clone(), name.clone()));
            }
        }
        touched
    }

    /// The meshes with virtual IPs.
    pub fn meshes_with_virtual_ips(&self) -> impl Iterator<Item = &MeshName> {
        self.virtual_ips.keys()
    }

    /// The virtual IPs of a mesh.
    pub fn virtual_ips(&self, mesh: &MeshName) -> &VirtualIps {
        static EMPTY: VirtualIps = VirtualIps::new();
        self.virtual_ips.get(mesh).unwrap_or(&EMPTY)
    }

    /// Replaces the virtual IPs of a mesh. Touches the services of the mesh whose virtual IP differs.
    pub fn set_virtual_ips(&mut self, mesh: &MeshName, virtual_ips: VirtualIps) -> Vec<Touched> {
        let mut touched = Vec::new();
        let services = self.meshes.get_mut(mesh).into_iter();
        for (name, service) in services.flat_map(|entry| &mut entry.services) {
            let virtual_ip = virtual_ips.get(name).copied();
            if service.virtual_ip != virtual_ip {
                service.virtual_ip = virtual_ip;
                touched.push(Touched::Service(mesh.clone(), name.clone()));
            }
        }
        if virtual_ips.is_empty() {
            self.virtual_ips.remove(mesh);
        } else {
            self.virtual_ips.insert(mesh.clone(), virtual_ips);
        }
        touched
    }

    /// Sets the endpoints of a service that come from the EndpointSlices of a Kubernetes Service without selector.
    pub fn set_slice_endpoints(
        &mut self,
        mesh: &MeshName,
        name: &ServiceName,
        endpoints: BTreeMap<SocketAddr, SliceEndpoint>,
    ) -> Vec<Touched> {
        let current = self.service(mesh, name).map(|service| &service.slice_endpoints);
        if current.unwrap_or(&BTreeMap::new()) == &endpoints {
            return Vec::new();
        }
        let entry = self.meshes.entry(mesh.clone()).or_default();
        let service = entry.services.entry(name.clone()).or_insert_with(|| Service {
            addresses: self.addresses.get(name).cloned().unwrap_or_default(),
            virtual_ip: virtual_ip(&self.virtual_ips, mesh, name),
            ..Service::default()
        });
        service.slice_endpoints = endpoints;
        if service.is_empty() {
            entry.services.remove(name);
        }
        if entry.is_empty() {
            self.meshes.remove(mesh);
        }
        vec![Touched::Service(mesh.clone(), name.clone())]
    }

    /// Adds or replaces a Dataplane. Its inbounds are endpoints of their services.
    pub fn upsert_dataplane(&mut self, dataplane: impl Into<Arc<Dataplane>>) -> Vec<Touched> {
        self.upsert(dataplane.into(), true)
    }

    /// Adds or replaces a Dataplane whose address belongs to another Pod now. Its inbounds are no endpoints.
    pub fn upsert_dataplane_without_endpoints(
        &mut self,
        dataplane: impl Into<Arc<Dataplane>>,
    ) -> Vec<Touched> {
        self.upsert(dataplane.into(), false)
    }

    fn upsert(&mut self, dataplane: Arc<Dataplane>, has_endpoints: bool) -> Vec<Touched> {
        let key = dataplane.key.clone();
        let old = self.dataplanes.get(&key).cloned();
        let has_old_endpoints = !self.without_endpoints.contains(&key);
        if old.as_deref() == Some(&*dataplane) && has_old_endpoints == has_endpoints {
            return Vec::new();
        }
        let mut touched = BTreeSet::new();
        if old
            .as_ref()
            .is_none_or(|old| !equal_except_health(old, &dataplane))
        {
            touched.insert(Touched::Dataplane(key.clone()));
        }
        let new_endpoints = endpoints(&dataplane, has_endpoints);
        if let Some(old) = &old {
            let is_same_mesh = old.mesh == dataplane.mesh;
            for (id, endpoint) in &endpoints(old, has_old_endpoints) {
                let is_unchanged = is_same_mesh && new_endpoints.get(id) == Some(endpoint);
                if !is_unchanged {
                    self.remove_endpoint(&old.mesh, id, &key);
                    touched.insert(Touched::Service(old.mesh.clone(), id.0.clone()));
                }
            }
            if !is_same_mesh {
                self.remove_from_mesh(&old.mesh, &key);
            }
        }
        let entry = self.meshes.entry(dataplane.mesh.clone()).or_default();
        entry.dataplanes.insert(key.clone());
        for ((name, address), endpoint) in new_endpoints {
            let service = entry.services.entry(name.clone()).or_insert_with(|| Service {
                addresses: self.addresses.get(&name).cloned().unwrap_or_default(),
                virtual_ip: virtual_ip(&self.virtual_ips, &dataplane.mesh, &name),
                ..Service::default()
            });
            if service.endpoints.get(&address) != Some(&endpoint) {
                service.endpoints.insert(address, endpoint);
                touched.insert(Touched::Service(dataplane.mesh.clone(), name));
            }
        }
        if has_endpoints {
            self.without_endpoints.remove(&key);
        } else {
            self.without_endpoints.insert(key.clone());
        }
        self.dataplanes.insert(key, dataplane);
        touched.into_iter().collect()
    }

    /// Removes a Dataplane.
    pub fn remove_dataplane(&mut self, key: &ObjectKey) -> Vec<Touched> {
        let Some(old) = self.dataplanes.remove(key) else {
            return Vec::new();
        };
        let has_old_endpoints = !self.without_endpoints.remove(key);
        let mut touched = BTreeSet::from([Touched::Dataplane(key.clone())]);
        for id in endpoints(&old, has_old_endpoints).keys() {
            self.remove_endpoint(&old.mesh, id, key);
            touched.insert(Touched::Service(old.mesh.clone(), id.0.clone()));
        }
        self.remove_from_mesh(&old.mesh, key);
        touched.into_iter().collect()
    }

    /// Removes an endpoint, unless it is no longer an endpoint of the Dataplane `owner`.
    fn remove_endpoint(&mut self, mesh: &MeshName, id: &EndpointId, owner: &ObjectKey) {
        let (name, address) = id;
        let Some(entry) = self.meshes.get_mut(mesh) else {
            return;
        };
        let Some(service) = entry.services.get_mut(name) else {
            return;
        };
        // The IP may already belong to a newer Pod of the same service.
        if service
            .endpoints
            .get(address)
            .is_some_and(|endpoint| endpoint.dataplane == *owner)
        {
            service.endpoints.remove(address);
        }
        if service.is_empty() {
            entry.services.remove(name);
        }
    }

    /// Removes the key of a Dataplane from a mesh.
    fn remove_from_mesh(&mut self, mesh: &MeshName, key: &ObjectKey) {
        if let Entry::Occupied(mut entry) = self.meshes.entry(mesh.clone()) {
            entry.get_mut().dataplanes.remove(key);
            if entry.get().is_empty() {
                entry.remove();
            }
        }
    }
}

fn virtual_ip(
    virtual_ips: &HashMap<MeshName, VirtualIps>,
    mesh: &MeshName,
    service: &ServiceName,
) -> Option<Ipv4Addr> {
    virtual_ips.get(mesh)?.get(service).copied()
}

/// Service, and Pod IP and container port, of an endpoint.
type EndpointId = (ServiceName, SocketAddr);

/// Endpoints of a Dataplane; none if `has_endpoints` is false. Of several inbounds with the same service and port, the
/// last one wins.
fn endpoints(dataplane: &Dataplane, has_endpoints: bool) -> BTreeMap<EndpointId, Endpoint> {
    let is_dual_stack = !dataplane.additional_addresses.is_empty();
    let mut endpoints = BTreeMap::new();
    if !has_endpoints {
        return endpoints;
    }
    for address in dataplane.addresses() {
        let position = match (is_dual_stack, address == dataplane.address) {
            (false, _) => AddressPosition::Only,
            (true, true) => AddressPosition::First,
            (true, false) => AddressPosition::Second,
        };
        let inbounds = dataplane.inbounds.iter();
        endpoints.extend(inbounds.filter_map(|inbound| endpoint(dataplane, inbound, address, position)));
    }
    endpoints
}

fn endpoint(
    dataplane: &Dataplane,
    inbound: &Inbound,
    address: IpAddr,
    position: AddressPosition,
) -> Option<(EndpointId, Endpoint)> {
    let id = (inbound.service()?, SocketAddr::new(address, inbound.port));
    let endpoint = Endpoint {
        dataplane: dataplane.key.clone(),
        position,
        tags: inbound.tags.clone(),
        protocol: inbound.protocol(),
        ready: inbound.is_ready(),
    };
    Some((id, endpoint))
}

/// Whether two Dataplanes are equal except for the health of their inbounds.
fn equal_except_health(a: &Dataplane, b: &Dataplane) -> bool {
    let without_health = |dataplane: &Dataplane| {
        let mut dataplane = dataplane.clone();
        for inbound in &mut dataplane.inbounds {
            inbound.ready = None;
        }
        dataplane
    };
    without_health(a) == without_health(b)
}

#[cfg(test)]
mod tests;
