//! The cluster and the listeners for direct access, with which a proxy calls Pods by their IP addresses
//! (docs/reference/envoy.md#direct-access). [`kermode_model::direct_access`] determines the addresses for each proxy.

use std::net::SocketAddr;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::core::v3::TrafficDirection;
use kermode_model::Mesh;

use super::tls::MeshTls;
use super::{cluster, listener};
use crate::{Resource, ResourceKind, names};

/// Number of attempts to connect to the Pod. A listener serves calls to only one Pod, so a retry has no other endpoint.
const CONNECT_ATTEMPTS: u32 = 1;

/// The cluster that all listeners for direct access share.
pub(crate) fn cluster(mesh: &Mesh) -> Resource {
    let cluster = Cluster {
        transport_socket: MeshTls::of(mesh).map(|mesh_tls| mesh_tls.to_any_proxy()),
        ..cluster::original_destination(names::DIRECT_ACCESS)
    };
    Resource::encode(ResourceKind::Cluster, names::DIRECT_ACCESS, &cluster)
}

/// The listener for calls to a Pod by its address.
pub(crate) fn listener_at(address: SocketAddr) -> Resource {
    let name = names::direct_access(address);
    let base = listener::new(&name, address, TrafficDirection::Outbound);
    let mut listener = listener::without_bind(base);
    let filter = listener::tcp_proxy(&name, names::DIRECT_ACCESS, CONNECT_ATTEMPTS);
    listener.filter_chains = vec![listener::filter_chain(vec![filter])];
    listener::encode(&listener)
}
