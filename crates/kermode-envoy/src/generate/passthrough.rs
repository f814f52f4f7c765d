//! Traffic that no other listener is for: out of the mesh, and to ports of the pod without an inbound
//! (BEHAVIOUR section 6.5).
//!
//! These listeners are where redirected connections arrive; Envoy then looks for a listener of the original
//! destination, and keeps the connection here when there is none. As in Kuma, inbound passthrough lets plain
//! text reach ports without an inbound even in strict mode: the mesh protects what is a service of it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use envoy_types::pb::envoy::config::core::v3::TrafficDirection;
use envoy_types::pb::envoy::config::listener::v3::{FilterChain, FilterChainMatch, Listener};
use kermode_model::{Dataplane, Mesh, TransparentProxying};

use super::{cluster, listener};
use crate::proto::{boolean, number};
use crate::{Resource, ResourceKind, names};

const INBOUND: &str = "inbound";
const OUTBOUND: &str = "outbound";

/// The IPv4 clusters, which every redirected proxy of the mesh has.
pub(crate) fn shared_clusters(mesh: &Mesh) -> Vec<Resource> {
    clusters(mesh, false)
}

/// The listeners, and the IPv6 clusters where IPv6 is intercepted.
pub(crate) fn generate(mesh: &Mesh, dataplane: &Dataplane) -> Vec<Resource> {
    let Some(redirect) = &dataplane.transparent_proxying else {
        return Vec::new();
    };
    let v4 = |port| SocketAddr::new(IpAddr::from(Ipv4Addr::UNSPECIFIED), port);
    let mut resources = vec![
        arrival(OUTBOUND, v4(redirect.redirect_port_outbound), redirect),
        arrival(INBOUND, v4(redirect.redirect_port_inbound), redirect),
    ];
    if let Some(inbound_port) = redirect.redirect_port_inbound_v6 {
        let v6 = |port| SocketAddr::new(IpAddr::from(Ipv6Addr::UNSPECIFIED), port);
        resources.extend(clusters(mesh, true));
        resources.push(arrival(OUTBOUND, v6(redirect.redirect_port_outbound), redirect));
        resources.push(arrival(INBOUND, v6(inbound_port), redirect));
    }
    resources
}

fn clusters(mesh: &Mesh, ipv6: bool) -> Vec<Resource> {
    let encode = |cluster: envoy_types::pb::envoy::config::cluster::v3::Cluster| {
        Resource::encode(ResourceKind::Cluster, &cluster.name, &cluster)
    };
    let inbound = cluster::original_destination(&names::passthrough(INBOUND, ipv6));
    let inbound = cluster::from_proxy_address(inbound, ipv6);
    // Without the cluster the listener closes what arrives.
    let outbound = mesh
        .outbound_passthrough
        .then(|| cluster::original_destination(&names::passthrough(OUTBOUND, ipv6)));
    outbound.into_iter().chain([inbound]).map(encode).collect()
}

fn arrival(direction: &str, socket: SocketAddr, redirect: &TransparentProxying) -> Resource {
    let traffic = if direction == INBOUND {
        TrafficDirection::Inbound
    } else {
        TrafficDirection::Outbound
    };
    let name = names::passthrough(direction, socket.is_ipv6());
    let own_ports = own_ports(redirect);
    let on = FilterChain {
        name: "passthrough".into(),
        ..listener::chain(vec![listener::tcp_proxy(&name, &name, 1)])
    };
    let listener = Listener {
        use_original_dst: boolean(true),
        filter_chains: own_ports.into_iter().map(refuse).chain([on]).collect(),
        ..listener::new(&name, socket, traffic)
    };
    listener::encode(&listener)
}

fn own_ports(redirect: &TransparentProxying) -> Vec<u16> {
    let v6 = redirect.redirect_port_inbound_v6;
    let mut ports: Vec<_> = [redirect.redirect_port_inbound, redirect.redirect_port_outbound]
        .into_iter()
        .chain(v6)
        .collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

/// A connection addressed to one of Envoy's own redirect ports would be passed on to itself without end. A chain
/// without filters closes it.
fn refuse(port: u16) -> FilterChain {
    let port_match = FilterChainMatch {
        destination_port: number(u32::from(port)),
        ..Default::default()
    };
    FilterChain {
        name: format!("loop:{port}"),
        filter_chain_match: Some(port_match),
        ..Default::default()
    }
}
