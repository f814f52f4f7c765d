//! Listeners and clusters for passthrough: traffic to destinations outside the mesh, and to ports of the Pod that have
//! no inbound (docs/reference/envoy.md#passthrough).
//!
//! All redirected connections arrive at these listeners. If Envoy has a listener for the original destination of a
//! connection, that listener handles the connection. Otherwise, Envoy passes the connection through, or closes the
//! connection if the mesh disables passthrough. In STRICT mode, inbound passthrough is disabled by default, because it
//! would deliver plain text to ports without an inbound (docs/design.md#strict-covers-every-port). For each connection
//! that Envoy closes for this reason, Envoy sends an entry of an access log to the agent.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use envoy_types::pb::envoy::config::core::v3::TrafficDirection;
use envoy_types::pb::envoy::config::listener::v3::{FilterChain, FilterChainMatch, Listener};
use kermode_model::{Dataplane, Mesh, TransparentProxying};
use kermode_protocol::access_log::CLOSED_CONNECTIONS_LOG;

use super::{OnDemandAddresses, cluster, direct, listener};
use crate::proto::{boolean, number};
use crate::{Resource, ResourceKind, names};

const INBOUND: &str = "inbound";
const OUTBOUND: &str = "outbound";
/// Name of the filter chain that passes connections through.
const PASSTHROUGH_CHAIN: &str = "passthrough";

/// The IPv4 passthrough clusters, which all proxies of the mesh share.
pub(crate) fn shared_clusters(mesh: &Mesh) -> Vec<Resource> {
    clusters(mesh, false)
}

/// The passthrough listeners of a proxy, and the IPv6 passthrough clusters if IPv6 is redirected.
pub(crate) fn generate(
    mesh: &Mesh,
    dataplane: &Dataplane,
    on_demand: OnDemandAddresses<'_>,
) -> Vec<Resource> {
    let Some(redirect) = &dataplane.transparent_proxying else {
        return Vec::new();
    };
    let inbound_v6 = redirect.redirect_port_inbound_v6.map(any_v6);
    let mut resources = if inbound_v6.is_some() {
        clusters(mesh, true)
    } else {
        Vec::new()
    };
    resources.extend(outbound_listeners(dataplane, on_demand));
    let inbound_sockets = std::iter::once(any_v4(redirect.redirect_port_inbound)).chain(inbound_v6);
    let inbound_log = (!mesh.passes_through_inbound()).then_some(CLOSED_CONNECTIONS_LOG);
    resources.extend(inbound_sockets.map(|socket| {
        passthrough_listener(
            INBOUND,
            socket,
            redirect,
            inbound_log,
            OnDemandAddresses::default(),
        )
    }));
    resources
}

/// The outbound passthrough listeners of a proxy. They also receive the connections to `on_demand`.
pub(crate) fn outbound_listeners(dataplane: &Dataplane, on_demand: OnDemandAddresses<'_>) -> Vec<Resource> {
    let Some(redirect) = &dataplane.transparent_proxying else {
        return Vec::new();
    };
    let port = redirect.redirect_port_outbound;
    let v6 = redirect.redirect_port_inbound_v6.map(|_| any_v6(port));
    let sockets = std::iter::once(any_v4(port)).chain(v6);
    sockets
        .map(|socket| passthrough_listener(OUTBOUND, socket, redirect, None, on_demand))
        .collect()
}

fn any_v4(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::from(Ipv4Addr::UNSPECIFIED), port)
}

fn any_v6(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::from(Ipv6Addr::UNSPECIFIED), port)
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
        .then(|| cluster::original_destination(&names::passthrough(OUTBOUND, is_ipv6)))
        .map(cluster::with_keepalive);
    outbound.into_iter().chain(inbound).map(encode).collect()
}

fn passthrough_listener(
    direction: &str,
    socket: SocketAddr,
    redirect: &TransparentProxying,
    log_name: Option<&str>,
    on_demand: OnDemandAddresses<'_>,
) -> Resource {
    let traffic_direction = if direction == INBOUND {
        TrafficDirection::Inbound
    } else {
        TrafficDirection::Outbound
    };
    let name = names::passthrough(direction, socket.is_ipv6());
    let tcp_proxy = match log_name {
        Some(log_name) => listener::tcp_proxy_with_log(&name, &name, log_name),
        None => listener::tcp_proxy(&name, &name, 1),
    };
    let passthrough_chain = FilterChain {
        name: PASSTHROUGH_CHAIN.into(),
        ..listener::filter_chain(vec![tcp_proxy])
    };
    let closing_chains = redirect_ports(redirect).into_iter().map(closing_chain);
    let listener = Listener {
        use_original_dst: boolean(true),
        filter_chains: closing_chains.chain([passthrough_chain]).collect(),
        ..listener::new(&name, socket, traffic_direction)
    };
    listener::encode(&with_on_demand(listener, socket.is_ipv6(), redirect, on_demand))
}

/// Adds the filter chains for addresses whose clusters are on demand to the outbound passthrough listener of an IP family.
/// A matcher replaces the conditions of the filter chains.
fn with_on_demand(
    mut listener: Listener,
    is_ipv6: bool,
    redirect: &TransparentProxying,
    on_demand: OnDemandAddresses<'_>,
) -> Listener {
    let virtual_ips = on_demand.virtual_ips.filter(|_| !is_ipv6);
    if on_demand.direct_access.is_none() && virtual_ips.is_none() {
        return listener;
    }
    for chain in &mut listener.filter_chains {
        chain.filter_chain_match = None;
    }
    let direct = on_demand.direct_access.map(|_| direct::filter_chain());
    listener.filter_chains.extend(direct);
    let of_virtual_ips = virtual_ips.map(|_| direct::virtual_ip_chain());
    listener.filter_chains.extend(of_virtual_ips);
    let closing = redirect_ports(redirect)
        .into_iter()
        .map(|port| (port, closing_chain_name(port)));
    let addresses = on_demand.direct_access.into_iter().flatten().copied();
    let of_family = addresses.filter(|address| address.is_ipv6() == is_ipv6);
    let matcher = direct::matcher(closing, of_family, virtual_ips, PASSTHROUGH_CHAIN);
    listener.filter_chain_matcher = Some(matcher);
    listener
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
        name: closing_chain_name(port),
        filter_chain_match: Some(port_match),
        ..Default::default()
    }
}

fn closing_chain_name(port: u16) -> String {
    format!("loop:{port}")
}
