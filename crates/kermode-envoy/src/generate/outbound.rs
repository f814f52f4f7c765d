//! Resources for the clients of one service (docs/reference/envoy.md#outbound-listeners).

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::cluster::LbPolicy;
use envoy_types::pb::envoy::config::cluster::v3::{Cluster, OutlierDetection};
use envoy_types::pb::envoy::config::core::v3::{TrafficDirection, TransportSocket};
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::listener::v3::Filter;
use kermode_model::view::{Balancing, Service, ServiceAddresses};
use kermode_model::{Dataplane, Mesh, Protocol, ServiceName};

use super::cluster::{self, ConnectionLimits, HttpVersion};
use super::tls::MeshTls;
use super::{direct, http, listener};
use crate::proto::{duration, number};
use crate::{Resource, ResourceKind, names};

/// Maximum number of connection attempts for each TCP connection of a client. Each attempt may use another endpoint.
pub(super) const CONNECT_ATTEMPTS: u32 = 5;
/// Idle timeout of HTTP connections to endpoints. This timeout is shorter than that of the server's sidecar
/// ([`listener::HTTP_IDLE_TIMEOUT`]). Otherwise, the client's sidecar could send a request on a connection that the server's
/// sidecar is closing.
const HTTP_IDLE_TIMEOUT: Duration = Duration::from_hours(1);
/// Limits of a connection to a ClusterIP whose endpoint the node chooses. The node chooses anew for each connection, so
/// the requests of a client spread over the endpoints, new endpoints get requests, and unready ones get no more.
const LIMITS_OF_NODE_CHOICE: ConnectionLimits = ConnectionLimits {
    requests: 1000,
    age: Duration::from_secs(30),
};
/// Duration for which an endpoint is ejected. Kubernetes notices a dead node after 50 s. The endpoint is then removed
/// before the client would try the endpoint again.
const EJECTION_TIME: Duration = Duration::from_mins(1);
/// Maximum part of a service's endpoints, in percent, that a client ejects. The other half of the endpoints stays in
/// use, because the failures may have another cause, such as the client's own network. A single endpoint is never
/// ejected.
const MAX_EJECTION_PERCENT: u32 = 50;

pub(crate) fn generate(mesh: &Mesh, name: &ServiceName, service: &Service) -> Vec<Resource> {
    let protocol = service.protocol();
    let transport_socket = MeshTls::of(mesh).map(|mesh_tls| mesh_tls.to_service(name));
    let addresses = &service.addresses;
    let mut resources = Vec::new();
    // Nodes choose no endpoint of a headless service.
    if addresses.balancing == Balancing::LeftToNode && !addresses.headless {
        let cluster_addresses = cluster_addresses(addresses);
        // Every ClusterIP leads to the same endpoints.
        let first = cluster_addresses.first().copied();
        let targets = cluster_addresses
            .into_iter()
            .map(|address| (address, protocol, transport_socket.clone()));
        resources.extend(single_address_resources(
            name,
            targets,
            Some(LIMITS_OF_NODE_CHOICE),
        ));
        if let (Some(target), Some(address)) = (first, service.virtual_address()) {
            let cluster = Cluster {
                transport_socket,
                connect_timeout: duration(cluster::ENDPOINT_CONNECT_TIMEOUT),
                ..cluster::single_address(&names::virtual_ip(address), target)
            };
            let cluster = with_upstream_options(cluster, Protocol::Tcp, None);
            resources.extend(direct::virtual_ip_resources(address, name, cluster, None));
        }
        return resources;
    }
    if has_common_cluster(service) {
        let cluster = Cluster {
            transport_socket: transport_socket.clone(),
            ..cluster::eds(name.as_str())
        };
        let ready_addresses = service.ready_endpoints().map(|(address, _)| *address);
        let endpoints = cluster::endpoints(name.as_str(), ready_addresses);
        resources.extend(common_cluster_resources(
            name, service, protocol, &cluster, &endpoints,
        ));
    }
    // The client itself chooses a Pod of a headless service. Unready endpoints are included, because the Pods of a
    // StatefulSet connect to each other before they are ready.
    if addresses.headless {
        let endpoints = service.endpoints.iter();
        let targets =
            endpoints.map(|(address, endpoint)| (*address, endpoint.protocol, transport_socket.clone()));
        resources.extend(single_address_resources(name, targets, None));
    }
    resources
}

/// Whether the service has an address that leads to all of its endpoints: a ClusterIP or a virtual IP.
pub(super) fn has_common_cluster(service: &Service) -> bool {
    !service.addresses.cluster_addresses.is_empty() || service.virtual_address().is_some()
}

/// With a ClusterIP: one cluster with its endpoints, and a listener for each ClusterIP. With a virtual IP: the resources on
/// demand for it. `cluster` must contain the TLS settings already.
pub(super) fn common_cluster_resources(
    name: &ServiceName,
    service: &Service,
    protocol: Protocol,
    cluster: &Cluster,
    endpoints: &ClusterLoadAssignment,
) -> Vec<Resource> {
    let by_client = service.addresses.balancing == Balancing::ByClient;
    let lb_policy = if by_client {
        LbPolicy::RingHash
    } else {
        LbPolicy::RoundRobin
    };
    let of_protocol = |protocol| Cluster {
        outlier_detection: Some(outlier_detection(protocol)),
        lb_policy: lb_policy.into(),
        ..with_upstream_options(cluster.clone(), protocol, None)
    };
    let mut resources = Vec::new();
    if let Some(address) = service.virtual_address() {
        let cluster = of_protocol(Protocol::Tcp);
        resources = direct::virtual_ip_resources(address, name, cluster, Some(endpoints));
    }
    if service.addresses.cluster_addresses.is_empty() {
        return resources;
    }
    let cluster = Resource::encode(ResourceKind::Cluster, name.as_str(), &of_protocol(protocol));
    let endpoints =
        Resource::encode(ResourceKind::Endpoints, name.as_str(), endpoints).with_cluster_version(&cluster);
    resources.extend([cluster, endpoints]);
    for address in cluster_addresses(&service.addresses) {
        let filter = filter_to_cluster(address, name, name.as_str(), protocol, by_client);
        resources.push(listener_at(address, filter));
    }
    resources
}

/// Returns the ClusterIPs with the service port, sorted, without duplicates.
fn cluster_addresses(addresses: &ServiceAddresses) -> BTreeSet<SocketAddr> {
    addresses.cluster_addresses.iter().copied().collect()
}

/// A cluster and a listener for each address. Connections go to the address that the client chose: the address of an
/// endpoint, or a ClusterIP whose endpoint the client's node chooses. `limits` are those of HTTP connections.
pub(super) fn single_address_resources(
    name: &ServiceName,
    targets: impl Iterator<Item = (SocketAddr, Protocol, Option<TransportSocket>)>,
    limits: Option<ConnectionLimits>,
) -> Vec<Resource> {
    let mut resources = Vec::new();
    for (address, protocol, transport_socket) in targets {
        let cluster_name = names::single_address(name, address);
        let cluster = Cluster {
            transport_socket,
            connect_timeout: duration(cluster::ENDPOINT_CONNECT_TIMEOUT),
            ..cluster::single_address(&cluster_name, address)
        };
        let cluster = with_upstream_options(cluster, protocol, limits);
        resources.push(Resource::encode(ResourceKind::Cluster, &cluster_name, &cluster));
        let filter = filter_to_cluster(address, name, &cluster_name, protocol, false);
        resources.push(listener_at(address, filter));
    }
    resources
}

/// Returns the kinds and names of the resources of [`super::service`] that must be hidden from a proxy: the resources
/// of headless services for the endpoints of the proxy's own Pod. Their outbound listeners would have the same
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
            .map(|service| names::single_address(&service, socket));
        hidden.extend(cluster.map(|cluster| (ResourceKind::Cluster, cluster)));
    }
    hidden.sort();
    hidden.dedup();
    hidden
}

fn with_upstream_options(cluster: Cluster, protocol: Protocol, limits: Option<ConnectionLimits>) -> Cluster {
    let cluster = Cluster {
        // A removed endpoint gets no new requests, even if it is still healthy. Open requests continue.
        ignore_health_on_host_removal: true,
        ..cluster::with_keepalive(cluster)
    };
    if protocol.is_http() {
        cluster::with_http_options(cluster, HttpVersion::Http2ToSidecar, HTTP_IDLE_TIMEOUT, limits)
    } else {
        cluster
    }
}

/// Passive health checks: an endpoint to which no connection can be made is ejected, so that further requests and
/// connections avoid the endpoint. Statuses of responses do not count, because an application may respond with any
/// status.
///
/// For HTTP, Envoy also counts streams that end early, for example when an application aborts a response or closes a
/// WebSocket. Every stream that gets a connection resets the count. A single stream that ends early must not eject a
/// healthy endpoint, so HTTP endpoints are ejected after two failures in succession.
fn outlier_detection(protocol: Protocol) -> OutlierDetection {
    let failures = if protocol.is_http() { 2 } else { 1 };
    OutlierDetection {
        split_external_local_origin_errors: true,
        consecutive_local_origin_failure: number(failures),
        enforcing_consecutive_local_origin_failure: number(100),
        enforcing_local_origin_success_rate: number(0),
        enforcing_consecutive_5xx: number(0),
        enforcing_consecutive_gateway_failure: number(0),
        enforcing_success_rate: number(0),
        base_ejection_time: duration(EJECTION_TIME),
        max_ejection_time: duration(EJECTION_TIME),
        max_ejection_percent: number(MAX_EJECTION_PERCENT),
        ..Default::default()
    }
}

fn listener_at(address: SocketAddr, filter: Filter) -> Resource {
    let base = listener::new(&names::outbound(address), address, TrafficDirection::Outbound);
    let mut listener = listener::without_bind(base);
    listener.stat_prefix = names::OUTBOUND_STATISTICS.into();
    listener.filter_chains = vec![listener::filter_chain(vec![filter])];
    listener::encode(&listener)
}

/// The filter of the listener at `address`. `by_client` means that the cluster balances by the hash of the client's
/// address.
fn filter_to_cluster(
    address: SocketAddr,
    service: &ServiceName,
    cluster: &str,
    protocol: Protocol,
    by_client: bool,
) -> Filter {
    if protocol.is_http() {
        http::outbound(address, service.as_str(), cluster, by_client)
    } else if by_client {
        listener::tcp_proxy_by_client(names::OUTBOUND_STATISTICS, cluster, CONNECT_ATTEMPTS)
    } else {
        listener::tcp_proxy(names::OUTBOUND_STATISTICS, cluster, CONNECT_ATTEMPTS)
    }
}
