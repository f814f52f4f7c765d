//! Listeners and clusters for passthrough: traffic to destinations outside the mesh, and to ports of the Pod that have
//! no inbound (docs/reference/envoy.md#passthrough).
//!
//! All redirected connections arrive at these listeners. If Envoy has a listener for the original destination of a
//! connection, that listener handles the connection. Otherwise, Envoy passes the connection through, or closes the
//! connection if the mesh disables passthrough. In STRICT mode, inbound passthrough is disabled by default, because it
//! would deliver plain text to ports without an inbound (docs/design.md#strict-covers-every-port).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use envoy_types::pb::envoy::config::core::v3::TrafficDirection;
use envoy_types::pb::envoy::config::listener::v3::{FilterChain, FilterChainMatch, Listener};
use kermode_model::{Dataplane, Mesh, TransparentProxying};

use super::{cluster, listener};
use crate::proto::{boolean, number};
use crate::{Resource, ResourceKind, names};

const INBOUND: &str = "inbound";
const OUTBOUND: &str = "outbound";

/// The IPv4 passthrough clusters, which all proxies of the mesh share.
pub(crate) fn shared_clusters(mesh: &Mesh) -> Vec<Resource> {
    clusters(mesh, false)
}

/// The passthrough listeners of a proxy, and the IPv6 passthrough clusters if IPv6 is redirected.
pub(crate) fn generate(mesh: &Mesh, dataplane: &Dataplane) -> Vec<Resource> {
    let Some(redirect) = &dataplane.transparent_proxying else {
        return Vec::new();
    };
    let v4 = |port| SocketAddr::new(IpAddr::from(Ipv4Addr::UNSPECIFIED), port);
    let mut resources = vec![
        passthrough_listener(OUTBOUND, v4(redirect.redirect_port_outbound), redirect),
        passthrough_listener(INBOUND, v4(redirect.redirect_port_inbound), redirect),
    ];
    if let Some(inbound_port) = redirect.redirect_port_inbound_v6 {
        let v6 = |port| SocketAddr::new(IpAddr::from(Ipv6Addr::UNSPECIFIED), port);
        resources.extend(clusters(mesh, true));
        resources.push(passthrough_listener(
            OUTBOUND,
            v6(redirect.redirect_port_outbound),
            redirect,
        ));
        resources.push(passthrough_listener(INBOUND, v6(inbound_port), redirect));
    }
    resources
}

fn clusters(mesh: &Mesh, is_ipv6: bool) -> Vec<Resource> {
    let encode = |cluster: envoy_types::pb::envoy::config::cluster::v3::Cluster| {
        Resource::encode(ResourceKind::Cluster, &cluster.name, &cluster)
    };
    // If the mesh disables passthrough in a direction, the cluster does not exist. The listener then closes connections,
    // and counts them in `downstream_cx_no_route`.
    let inbound = mesh.passes_through_inbound().then(|| {
        let cluster = cluster::original_destination(&names::passthrough(INBOUND, is_ipv6));
        cluster::with_exempt_source(cluster, is_ipv6)
    });
    let outbound = mesh
        .outbound_passthrough
        .then(|| cluster::original_destination(&names::passthrough(OUTBOUND, is_ipv6)));
    outbound.into_iter().chain(inbound).map(encode).collect()
}

fn passthrough_listener(direction: &str, socket: SocketAddr, redirect: &TransparentProxying) -> Resource {
    let traffic_direction = if direction == INBOUND {
        TrafficDirection::Inbound
    } else {
        TrafficDirection::Outbound
    };
    let name = names::passthrough(direction, socket.is_ipv6());
    let passthrough_chain = FilterChain {
        name: "passthrough".into(),
        ..listener::filter_chain(vec![listener::tcp_proxy(&name, &name, 1)])
    };
    let listener = Listener {
        use_original_dst: boolean(true),
        filter_chains: redirect_ports(redirect)
            .into_iter()
            .map(closing_chain)
            .chain([passthrough_chain])
            .collect(),
        ..listener::new(&name, socket, traffic_direction)
    };
    listener::encode(&listener)
}

/// Envoy's ports that connections are redirected to.
fn redirect_ports(redirect: &TransparentProxying) -> Vec<u16> {
    let inbound_v6 = redirect.redirect_port_inbound_v6;
    let mut ports: Vec<_> = [redirect.redirect_port_inbound, redirect.redirect_port_outbound]
        .into_iter()
        .chain(inbound_v6)
        .collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

/// A filter chain without filters. It closes connections whose original destination is a redirect port. Without this
/// filter chain, Envoy would connect to itself in an endless loop.
fn closing_chain(port: u16) -> FilterChain {
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
