//! Resources for the clients of one service (docs/reference/envoy.md#outbound-listeners).

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

/// Maximum number of connection attempts for each TCP connection of a client. Each attempt may use another endpoint.
const CONNECT_ATTEMPTS: u32 = 5;
/// Idle timeout of HTTP connections to endpoints. This timeout is shorter than that of the server's sidecar
/// ([`listener::IDLE_TIMEOUT`]). Otherwise, the client's sidecar could send a request on a connection that the server's
/// sidecar is closing.
const HTTP_IDLE_TIMEOUT: std::time::Duration = std::time::Duration::from_hours(1);

pub(crate) fn generate(mesh: &Mesh, name: &ServiceName, service: &Service) -> Vec<Resource> {
    let mesh_tls = MeshTls::of(mesh);
    let mut resources = Vec::new();
    if !service.addresses.cluster_ips.is_empty() {
        resources.extend(cluster_ip_resources(name, service, mesh_tls.as_ref()));
    }
    if service.addresses.headless {
        resources.extend(headless_resources(name, service, mesh_tls.as_ref()));
    }
    resources
        .into_iter()
        .map(|resource| resource.with_service(name))
        .collect()
}

/// One cluster with its endpoints, and a listener for each ClusterIP.
fn cluster_ip_resources(name: &ServiceName, service: &Service, mesh_tls: Option<&MeshTls>) -> Vec<Resource> {
    let protocol = service.protocol();
    let cluster = with_upstream_options(cluster::eds(name.as_str()), name, protocol, mesh_tls);
    let cluster = Resource::encode(ResourceKind::Cluster, name.as_str(), &cluster);
    let ready_addresses = service.ready_endpoints().map(|(address, _)| *address);
    let endpoints = cluster::endpoints(name.as_str(), ready_addresses);
    let endpoints =
        Resource::encode(ResourceKind::Endpoints, name.as_str(), &endpoints).with_cluster_version(&cluster);
    let mut resources = vec![cluster, endpoints];
    let mut cluster_ips = service.addresses.cluster_ips.clone();
    cluster_ips.sort();
    cluster_ips.dedup();
    for address in cluster_ips {
        resources.push(listener_at(address, name, name.as_str(), protocol));
    }
    resources
}

/// A cluster and a listener for each endpoint of a headless service, because the client itself chooses the Pod.
///
/// Unready endpoints are included, because the Pods of a StatefulSet connect to each other before they are ready.
fn headless_resources(name: &ServiceName, service: &Service, mesh_tls: Option<&MeshTls>) -> Vec<Resource> {
    let mut resources = Vec::new();
    for (address, endpoint) in &service.endpoints {
        let cluster_name = names::headless_endpoint(name, *address);
        let cluster = cluster::single_address(&cluster_name, *address);
        let cluster = with_upstream_options(cluster, name, endpoint.protocol, mesh_tls);
        resources.push(Resource::encode(ResourceKind::Cluster, &cluster_name, &cluster));
        resources.push(listener_at(*address, name, &cluster_name, endpoint.protocol));
    }
    resources
}

/// Returns the kinds and names of the resources of [`super::service`] that must be hidden from a proxy: the resources
/// of headless services for the endpoints of the proxy's own Pod. These outbound listeners would have the same
/// addresses as the proxy's inbound listeners (docs/reference/dataplane.md#outbounds).
pub fn hidden_resource_names(dataplane: &Dataplane) -> Vec<(ResourceKind, String)> {
    let mut hidden = Vec::new();
    let inbounds = dataplane.inbounds.iter();
    let inbounds_and_addresses =
        inbounds.flat_map(|inbound| dataplane.addresses().map(move |address| (inbound, address)));
    for (inbound, address) in inbounds_and_addresses {
        let socket = SocketAddr::new(address, inbound.port);
        hidden.push((ResourceKind::Listener, names::outbound(socket)));
        let cluster = inbound
            .service()
            .map(|service| names::headless_endpoint(&service, socket));
        hidden.extend(cluster.map(|cluster| (ResourceKind::Cluster, cluster)));
    }
    hidden.sort();
    hidden.dedup();
    hidden
}

fn with_upstream_options(
    cluster: Cluster,
    service: &ServiceName,
    protocol: Protocol,
    mesh_tls: Option<&MeshTls>,
) -> Cluster {
    let cluster = Cluster {
        transport_socket: mesh_tls.map(|mesh_tls| mesh_tls.to_service(service)),
        // A removed endpoint gets no new requests, even if it is still healthy. Open requests continue.
        ignore_health_on_host_removal: true,
        upstream_connection_options: Some(keepalive_options()),
        ..cluster
    };
    if protocol.is_http() {
        cluster::with_http_options(cluster, HttpVersion::Http2, HTTP_IDLE_TIMEOUT)
    } else {
        cluster
    }
}

/// TCP keepalive, to detect nodes that disappear without closing their connections.
fn keepalive_options() -> UpstreamConnectionOptions {
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
    let mut listener = listener::without_bind(base);
    let filter = filter_to_cluster(address, service, cluster, protocol);
    listener.filter_chains = vec![listener::filter_chain(vec![filter])];
    listener::encode(&listener)
}

fn filter_to_cluster(
    address: SocketAddr,
    service: &ServiceName,
    cluster: &str,
    protocol: Protocol,
) -> Filter {
    if protocol.is_http() {
        http::outbound(address, service.as_str(), cluster, protocol)
    } else {
        listener::tcp_proxy(cluster, cluster, CONNECT_ATTEMPTS)
    }
}
