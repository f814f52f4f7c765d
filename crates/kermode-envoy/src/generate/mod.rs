//! Generates Envoy resources from the mesh view.
//!
//! Each function generates the resources of one part of the view. The publisher calls the functions for the parts that
//! a change touched ([`kermode_model::view::Touched`]).
//!
//! The encoding is deterministic, because versions are hashes of the encoded bytes and must be equal in all replicas.
//! Therefore, protobuf maps with more than one entry are never encoded from a `HashMap`.

mod admin;
mod cluster;
mod direct;
mod http;
mod inbound;
mod listener;
mod metrics;
mod outbound;
mod passthrough;
mod permission;
mod probe;
mod slice;
mod tls;

use std::collections::BTreeSet;
use std::net::SocketAddr;

use kermode_model::view::Service;
use kermode_model::{Dataplane, Mesh, PermissionSet, ServiceName, VirtualIpRange};

pub use outbound::hidden_resource_names;

use crate::Resource;

/// Destinations of a proxy whose clusters Envoy requests when the application first connects to them.
#[derive(Clone, Copy, Debug, Default)]
pub struct OnDemandAddresses<'a> {
    /// Addresses for direct access ([`kermode_model::direct_access`]); `None` for a proxy without direct access.
    pub direct_access: Option<&'a BTreeSet<SocketAddr>>,
    /// Range of the virtual IPs; `None` if services have no virtual IPs.
    pub virtual_ips: Option<VirtualIpRange>,
}

/// Generates the resources for the clients of a service: clusters, endpoints and outbound listeners. The resources for
/// the virtual IP of the service are on demand. Clients use outbound passthrough for a service without resources, for
/// example one without an address.
///
/// The resources are the same for all proxies of the mesh. A proxy gets all of them except those that
/// [`hidden_resource_names`] returns for its Dataplane.
///
/// If two headless services select the same Pod port, their listeners have the same name. A proxy then gets only the
/// listener of the service whose name is alphabetically first.
pub fn service(mesh: &Mesh, name: &ServiceName, service: &Service) -> Vec<Resource> {
    // A Service without selector has endpoints from EndpointSlices only.
    let resources = if service.endpoints.is_empty() {
        slice::generate(mesh, name, service)
    } else {
        outbound::generate(mesh, name, service)
    };
    resources
        .into_iter()
        .map(|resource| resource.with_service(name))
        .collect()
}

/// Generates the resources that all proxies of a mesh share and that belong to no service: the IPv4 passthrough
/// clusters.
pub fn mesh_shared(mesh: &Mesh) -> Vec<Resource> {
    passthrough::shared_clusters(mesh)
}

/// Generates the resources of one proxy: inbound listeners with their clusters, and listeners for passthrough, the
/// admin interface, virtual probes and metrics.
///
/// `permissions` are the permissions of the mesh. With mTLS, an inbound without an allowing rule denies all callers.
pub fn proxy(
    mesh: &Mesh,
    dataplane: &Dataplane,
    permissions: &PermissionSet,
    on_demand: OnDemandAddresses<'_>,
) -> Vec<Resource> {
    let mut resources = inbound::generate(mesh, dataplane, permissions);
    resources.extend(passthrough::generate(mesh, dataplane, on_demand));
    resources.extend(admin::generate(dataplane));
    resources.extend(probe::generate(dataplane));
    resources.extend(metrics::generate(dataplane));
    resources
}

/// Generates the listeners of one inbound port, one for each address of the Pod. Returns no listeners if the Dataplane
/// has no inbound at the port.
///
/// Only inbound listeners depend on permissions, so the publisher calls this function when permissions change.
pub fn inbound_listeners(
    mesh: &Mesh,
    dataplane: &Dataplane,
    port: u16,
    permissions: &PermissionSet,
) -> Vec<Resource> {
    inbound::listeners_of_port(mesh, dataplane, port, permissions)
}

/// Generates the listeners that receive the connections to `on_demand`: the outbound passthrough listeners.
pub fn on_demand_listeners(dataplane: &Dataplane, on_demand: OnDemandAddresses<'_>) -> Vec<Resource> {
    passthrough::outbound_listeners(dataplane, on_demand)
}

/// Generates the cluster for direct access to one address. Envoy requests the cluster when the application first
/// connects to the address. `services` are the services of the Pod at the address, of which the Pod's certificate must
/// have an identity. The cluster is the same for all proxies of the mesh.
pub fn direct_access_cluster<'a>(
    mesh: &Mesh,
    address: SocketAddr,
    services: impl IntoIterator<Item = &'a ServiceName>,
) -> Resource {
    direct::cluster(mesh, address, services)
}
