//! Resources for the clients of one service (docs/reference/envoy.md#outbound-listeners), the same for all clients.

use std::net::SocketAddr;

use envoy_types::pb::envoy::config::cluster::v3::{Cluster, UpstreamConnectionOptions};
use envoy_types::pb::envoy::config::core::v3::{TcpKeepalive, TrafficDirection};
use envoy_types::pb::envoy::config::listener::v3::Filter;
use kermode_model::view::Service;
use kermode_model::{Dataplane, Mesh, Protocol, ServiceName};

use super::cluster::{self, HttpVersion};
use super::tls::MeshTls;
use super::{http, listener};
use crate::proto::number;
use crate::{Resource, ResourceKind, names};

/// Maximum number of connection attempts to endpoints for one TCP connection of a client.
const CONNECT_ATTEMPTS: u32 = 5;
/// Idle timeout of HTTP connections to endpoints. Shorter than [`listener::IDLE_TIMEOUT`] of the server side, so that
/// no request is sent on a connection that the server is closing.
const HTTP_IDLE_TIMEOUT: std::time::Duration = std::time::Duration::from_hours(1);

pub(crate) fn generate(mesh: &Mesh, name: &ServiceName, service: &Service) -> Vec<Resource> {
    let mut resources = Vec::new();
    let mesh_tls = MeshTls::of(mesh);
    if !service.addresses.cluster_ips.is_empty() {
        let protocol = service.protocol();
        let cluster = cluster::discovered(name.as_str());
        let cluster = Resource::encode(
            ResourceKind::Cluster,
            name.as_str(),
            &with_upstream_options(cluster, name, protocol, mesh_tls.as_ref()),
        );
        let ready = service.ready_endpoints().map(|(address, _)| *address);
        let endpoints = cluster::endpoints(name.as_str(), ready);
        let endpoints =
            Resource::encode(ResourceKind::Endpoints, name.as_str(), &endpoints).resent_with(&cluster);
        resources.extend([cluster, endpoints]);
        let mut addresses = service.addresses.cluster_ips.clone();
        addresses.sort();
        addresses.dedup();
        let to_all = |address| listener_at(address, name, name.as_str(), protocol);
        resources.extend(addresses.into_iter().map(to_all));
    }
    if service.addresses.headless {
        for (address, endpoint) in &service.endpoints {
            let cluster_name = names::instance(name, *address);
            // Unready endpoints are included: the client has chosen the Pod, and peers of a StatefulSet connect to each
            // other before they are ready. Therefore a change of readiness changes none of these resources.
            let cluster = cluster::fixed(&cluster_name, *address);
            let cluster = with_upstream_options(cluster, name, endpoint.protocol, mesh_tls.as_ref());
            resources.push(Resource::encode(ResourceKind::Cluster, &cluster_name, &cluster));
            resources.push(listener_at(*address, name, &cluster_name, endpoint.protocol));
        }
    }
    resources.into_iter().map(|resource| resource.of(name)).collect()
}

/// Resources of [`super::service`] that a proxy must not get: the resources of headless services for its own Pod, whose
/// outbound listeners would have the same addresses as its inbound listeners (docs/reference/dataplane.md#outbounds).
pub fn own_outbound_names(dataplane: &Dataplane) -> Vec<(ResourceKind, String)> {
    let mut own = Vec::new();
    for inbound in &dataplane.inbounds {
        let address = SocketAddr::new(dataplane.address, inbound.port);
        own.push((ResourceKind::Listener, names::outbound(address)));
        let cluster = inbound
            .service()
            .map(|service| names::instance(&service, address));
        own.extend(cluster.map(|cluster| (ResourceKind::Cluster, cluster)));
    }
    own.sort();
    own.dedup();
    own
}

fn with_upstream_options(
    cluster: Cluster,
    service: &ServiceName,
    protocol: Protocol,
    mesh_tls: Option<&MeshTls>,
) -> Cluster {
    let cluster = Cluster {
        transport_socket: mesh_tls.map(|mesh_tls| mesh_tls.to_service(service)),
        // Envoy removes an endpoint at once, even if it is healthy: it gets no new requests and finishes open ones.
        ignore_health_on_host_removal: true,
        upstream_connection_options: Some(keepalive()),
        ..cluster
    };
    if protocol.is_http() {
        cluster::with_http(cluster, HttpVersion::Two, HTTP_IDLE_TIMEOUT)
    } else {
        cluster
    }
}

/// TCP keepalive, by which the kernel detects nodes that disappear without closing their connections.
fn keepalive() -> UpstreamConnectionOptions {
    let tcp_keepalive = TcpKeepalive {
        keepalive_time: number(60),
        keepalive_interval: number(10),
        keepalive_probes: number(3),
    };
    UpstreamConnectionOptions {
        tcp_keepalive: Some(tcp_keepalive),
        ..Default::default()
    }
}

fn listener_at(address: SocketAddr, service: &ServiceName, cluster: &str, protocol: Protocol) -> Resource {
    let base = listener::new(&names::outbound(address), address, TrafficDirection::Outbound);
    let filters = vec![to_cluster(service, cluster, protocol)];
    let mut listener = listener::unbound(base);
    listener.filter_chains = vec![listener::chain(filters)];
    listener::encode(&listener)
}

fn to_cluster(service: &ServiceName, cluster: &str, protocol: Protocol) -> Filter {
    if protocol.is_http() {
        http::outbound(service.as_str(), cluster, protocol)
    } else {
        listener::tcp_proxy(cluster, cluster, CONNECT_ATTEMPTS)
    }
}
