//! What the clients of one service need (BEHAVIOUR section 6.3): the same for every client, whoever it is.

use std::net::SocketAddr;

use envoy_types::pb::envoy::config::cluster::v3::{Cluster, UpstreamConnectionOptions};
use envoy_types::pb::envoy::config::core::v3::{TcpKeepalive, TrafficDirection};
use envoy_types::pb::envoy::config::listener::v3::Filter;
use kermode_model::view::Service;
use kermode_model::{Dataplane, Mesh, Protocol, ServiceName};

use super::cluster::{self, HttpVersion};
use super::{Identity, http, listener};
use crate::proto::number;
use crate::{Resource, ResourceKind, names};

/// How many endpoints are tried for one TCP connection.
const CONNECT_ATTEMPTS: u32 = 5;
/// Idle HTTP connections end on the client's side first, well before [`listener::IDLE_TIMEOUT`] ends them on the
/// server's, so that no request is sent on a connection being closed.
const HTTP_IDLE_TIMEOUT: std::time::Duration = std::time::Duration::from_hours(1);

pub(crate) fn generate(mesh: &Mesh, name: &ServiceName, service: &Service) -> Vec<Resource> {
    let mut resources = Vec::new();
    let identity = Identity::of(mesh);
    if !service.addresses.cluster_ips.is_empty() {
        let protocol = service.protocol();
        let cluster = cluster::discovered(name.as_str());
        let cluster = Resource::encode(
            ResourceKind::Cluster,
            name.as_str(),
            &towards(cluster, name, protocol, identity.as_ref()),
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
            // Unready endpoints too: the client chose this pod, and peers of a StatefulSet find one another
            // before any of them is ready. So a change of readiness changes nothing here.
            let cluster = cluster::fixed(&cluster_name, *address);
            let cluster = towards(cluster, name, endpoint.protocol, identity.as_ref());
            resources.push(Resource::encode(ResourceKind::Cluster, &cluster_name, &cluster));
            resources.push(listener_at(*address, name, &cluster_name, endpoint.protocol));
        }
    }
    resources.into_iter().map(|resource| resource.of(name)).collect()
}

/// Resources of [`super::service`] that this proxy must not get: the listeners of headless services for the
/// proxy's own pod have the addresses of its inbound listeners (BEHAVIOUR section 3.6).
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

fn towards(
    cluster: Cluster,
    service: &ServiceName,
    protocol: Protocol,
    identity: Option<&Identity>,
) -> Cluster {
    let cluster = Cluster {
        transport_socket: identity.map(|identity| identity.to_service(service)),
        // A withdrawn endpoint gets nothing new and finishes what it has, whatever its health was.
        ignore_health_on_host_removal: true,
        upstream_connection_options: Some(keepalive()),
        ..cluster
    };
    if protocol.is_http() {
        cluster::speaking(cluster, HttpVersion::Two, HTTP_IDLE_TIMEOUT)
    } else {
        cluster
    }
}

/// A node that vanishes sends no reset; the kernel finds out without waking Envoy.
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
