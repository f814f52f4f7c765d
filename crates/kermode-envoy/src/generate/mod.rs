//! Generation of Envoy resources from the mesh view, between the index in `kermode-k8s` and the store in
//! `kermode-xds`.
//!
//! Each function generates the resources of one part of the view ([`kermode_model::view::Touched`]), so the cost of a
//! change depends on the touched parts. The resources of a service ([`service`]) are the same for all its clients.
//!
//! Encoding is deterministic: versions are hashes of the encoded bytes and must be equal in all replicas. Messages
//! with protobuf maps of more than one entry are therefore not encoded from `HashMap`s.

mod admin;
mod cluster;
mod direct;
mod http;
mod inbound;
mod listener;
mod outbound;
mod passthrough;
mod permission;
mod probe;
mod tls;

use std::net::SocketAddr;

use kermode_model::view::Service;
use kermode_model::{Dataplane, Mesh, PermissionSet, ServiceName};

pub use outbound::own_outbound_names;

use crate::Resource;

/// Default port of Envoy's admin interface and of the listener in front of it.
pub const DEFAULT_ADMIN_PORT: u16 = 9901;

/// Resources for the clients of a service: cluster, endpoints and outbound listeners. They are the same for all proxies
/// of the mesh; [`own_outbound_names`] lists the resources that a proxy must not get. Empty for a service without an
/// address.
///
/// If two headless services select the same Pod port, their listeners have the same name, and a proxy gets the listener
/// of the first service by name.
pub fn service(mesh: &Mesh, name: &ServiceName, service: &Service) -> Vec<Resource> {
    outbound::generate(mesh, name, service)
}

/// Resources of a mesh that all its proxies share: the passthrough clusters.
pub fn mesh_shared(mesh: &Mesh) -> Vec<Resource> {
    passthrough::shared_clusters(mesh)
}

/// Resources of one proxy: inbound listeners with their clusters, and listeners for passthrough, the admin interface
/// and virtual probes.
///
/// `permissions` are the permissions of the mesh. With mTLS, an inbound without an allowing rule denies all callers.
pub fn proxy(mesh: &Mesh, dataplane: &Dataplane, permissions: &PermissionSet) -> Vec<Resource> {
    let mut resources = inbound::generate(mesh, dataplane, permissions);
    resources.extend(passthrough::generate(mesh, dataplane));
    resources.extend(admin::generate(dataplane));
    resources.extend(probe::generate(dataplane));
    resources
}

/// The listener of one inbound port. Only inbound listeners depend on permissions. `None` if the Dataplane has no such
/// inbound.
pub fn inbound_listener(
    mesh: &Mesh,
    dataplane: &Dataplane,
    port: u16,
    permissions: &PermissionSet,
) -> Option<Resource> {
    inbound::listener_of_port(mesh, dataplane, port, permissions)
}

/// The cluster for direct access and a listener for each address (see [`kermode_model::direct_access`]). They depend
/// on the endpoints of other Pods, unlike everything in [`proxy`].
pub fn direct_access(mesh: &Mesh, addresses: impl IntoIterator<Item = SocketAddr>) -> Vec<Resource> {
    let listeners = addresses.into_iter().map(direct_access_listener);
    [direct::cluster(mesh)].into_iter().chain(listeners).collect()
}

/// The listener for direct access to one address, the same for all proxies. [`crate::names::direct_access`] is its
/// name.
pub fn direct_access_listener(address: SocketAddr) -> Resource {
    direct::listener_at(address)
}
