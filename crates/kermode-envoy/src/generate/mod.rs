//! From the mesh view to Envoy resources, the stage between `kermode-k8s`'s index and `kermode-xds`'s store.
//!
//! Each function answers for one thing that can change ([`kermode_model::view::Touched`]), so that a change costs
//! what it touches. What a service's clients need ([`service`]) is the same for all of them: the function does
//! not know who they are, nor whether they got it eagerly or on demand.
//!
//! Everything is deterministic, byte for byte: versions are hashes of the encoded bytes and have to agree between
//! replicas. Messages with protobuf maps of more than one entry are therefore not encoded from `HashMap`s.

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
pub use tls::Identity;

use crate::Resource;

/// Port of Envoy's admin interface, and of the listener in front of it, unless the Pod overrides it.
pub const DEFAULT_ADMIN_PORT: u16 = 9901;

/// What clients of a service need: its cluster, endpoints and outbound listeners. Shared by every client of the
/// mesh, except that no client may get what [`own_outbound_names`] lists for it. Empty for a service that has no
/// address to be called by.
///
/// Two headless services over one pod port yield listeners of one name: whoever merges services for a proxy
/// keeps the one of the first service by name.
pub fn service(mesh: &Mesh, name: &ServiceName, service: &Service) -> Vec<Resource> {
    outbound::generate(mesh, name, service)
}

/// What is equal for all proxies of a mesh: the clusters for traffic to and from outside the mesh.
pub fn mesh_shared(mesh: &Mesh) -> Vec<Resource> {
    passthrough::shared_clusters(mesh)
}

/// A proxy's own resources: inbound listeners and local clusters, passthrough, admin and probe listeners.
///
/// `permissions` are those of the mesh. With mTLS on, an inbound without an allowing rule admits no caller.
pub fn proxy(mesh: &Mesh, dataplane: &Dataplane, permissions: &PermissionSet) -> Vec<Resource> {
    let mut resources = inbound::generate(mesh, dataplane, permissions);
    resources.extend(passthrough::generate(mesh, dataplane));
    resources.extend(admin::generate(dataplane));
    resources.extend(probe::generate(dataplane));
    resources
}

/// The listener of one inbound port, the only resource of a proxy that depends on permissions. `None` when the dataplane has no
/// such inbound.
pub fn inbound_listener(
    mesh: &Mesh,
    dataplane: &Dataplane,
    port: u16,
    permissions: &PermissionSet,
) -> Option<Resource> {
    inbound::listener_of_port(mesh, dataplane, port, permissions)
}

/// The cluster for direct access and a listener for each address (see [`kermode_model::direct_access`]). They depend on the
/// endpoints of other Pods, unlike everything in [`proxy`].
pub fn direct_access(mesh: &Mesh, addresses: impl IntoIterator<Item = SocketAddr>) -> Vec<Resource> {
    let listeners = addresses.into_iter().map(direct_access_listener);
    [direct::cluster(mesh)].into_iter().chain(listeners).collect()
}

/// The direct-access listener of one address, equal for all proxies; named by [`crate::names::direct_access`].
pub fn direct_access_listener(address: SocketAddr) -> Resource {
    direct::listener_at(address)
}
