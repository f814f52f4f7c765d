//! Inbound listeners and their local clusters (docs/reference/envoy.md#inbound-listeners).
//!
//! Several Service ports may have the same container port. The inbounds of these Service ports share one listener at
//! each address of the Pod. The protocol of this listener is the most specific protocol of these inbounds
//! (docs/design.md#shared-container-ports).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::core::v3::TrafficDirection;
use envoy_types::pb::envoy::config::listener::v3::{Filter, FilterChain, FilterChainMatch, Listener};
use envoy_types::pb::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;
use kermode_model::{Dataplane, Inbound, Mesh, MtlsMode, PermissionSet, Protocol};

use super::cluster::{self, HttpVersion};
use super::http::{self, HttpAccess};
use super::listener;
use super::permission::{self, AccessRules};
use super::tls::{ALPN, MeshTls};
use crate::proto::{duration, listener_filter};
use crate::{Resource, ResourceKind, names};

/// Time that an inbound listener of a PERMISSIVE mesh waits for the first bytes of a client to detect TLS. After this
/// time, the listener treats the connection as plain text: in some protocols, such as MySQL and SMTP, the client waits
/// for the server to send first.
const DETECTION_TIMEOUT: Duration = Duration::from_secs(1);
/// Timeout of a TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Generates the listeners and local clusters of all inbounds.
pub(crate) fn generate(mesh: &Mesh, dataplane: &Dataplane, permissions: &PermissionSet) -> Vec<Resource> {
    let mut resources = Vec::new();
    for (port, inbounds) in inbounds_by_port(dataplane) {
        let Some(inbound) = most_specific(&inbounds) else {
            continue;
        };
        let rules = permission_rules(mesh, &inbounds, permissions);
        for address in dataplane.addresses() {
            let cluster = local_cluster(dataplane, SocketAddr::new(address, port), inbound.protocol());
            resources.push(Resource::encode(ResourceKind::Cluster, &cluster.name, &cluster));
            resources.push(inbound_listener(mesh, dataplane, address, inbound, rules.clone()));
        }
    }
    resources
}

/// Generates the listeners of one port, one for each address of the Pod, without their local clusters.
pub(crate) fn listeners_of_port(
    mesh: &Mesh,
    dataplane: &Dataplane,
    port: u16,
    permissions: &PermissionSet,
) -> Vec<Resource> {
    let inbounds = inbounds_by_port(dataplane).remove(&port).unwrap_or_default();
    let Some(inbound) = most_specific(&inbounds) else {
        return Vec::new();
    };
    let rules = permission_rules(mesh, &inbounds, permissions);
    dataplane
        .addresses()
        .map(|address| inbound_listener(mesh, dataplane, address, inbound, rules.clone()))
        .collect()
}

/// The rules for the callers of a port, which are the same at each address of the Pod; `None` without mTLS, and if every
/// caller is allowed.
fn permission_rules(mesh: &Mesh, inbounds: &[&Inbound], permissions: &PermissionSet) -> Option<AccessRules> {
    mesh.mtls.as_ref()?;
    let tags: Vec<_> = inbounds.iter().map(|inbound| &inbound.tags).collect();
    let rules = permission::rules(&mesh.name, &tags, permissions);
    // A filter that allows all callers costs CPU time and checks nothing: mesh TLS itself verifies that a caller belongs
    // to the mesh (docs/design.md#no-filter-for-a-permission-that-allows-all-callers).
    (!rules.allow_every_caller()).then_some(rules)
}

/// The listener for a port, at one address of the Pod. `inbound` is the most specific inbound of the port.
fn inbound_listener(
    mesh: &Mesh,
    dataplane: &Dataplane,
    address: IpAddr,
    inbound: &Inbound,
    rules: Option<AccessRules>,
) -> Resource {
    let socket = SocketAddr::new(address, inbound.port);
    let name = names::inbound(socket);
    let filters = filters_to_application(dataplane, socket, inbound, rules);
    let base = listener::new(&name, socket, TrafficDirection::Inbound);
    let base = if dataplane.transparent_proxying.is_some() {
        listener::without_bind(base)
    } else {
        base
    };
    let listener = with_filter_chains(base, mesh, &filters);
    listener::encode_with_tags(&listener, &inbound.tags)
}

/// Groups the inbounds of a Dataplane by port. Omits the placeholder inbound of a service-less Pod.
fn inbounds_by_port(dataplane: &Dataplane) -> BTreeMap<u16, Vec<&Inbound>> {
    let mut ports: BTreeMap<u16, Vec<&Inbound>> = BTreeMap::new();
    for inbound in dataplane
        .inbounds
        .iter()
        .filter(|inbound| !inbound.is_placeholder())
    {
        ports.entry(inbound.port).or_default().push(inbound);
    }
    ports
}

/// The inbound that determines the protocol, service name and tags of a listener: the inbound with the most specific
/// protocol. Among several such inbounds, the alphabetically first service name decides.
fn most_specific<'a>(inbounds: &[&'a Inbound]) -> Option<&'a Inbound> {
    // `Protocol` is ordered by specificity, the most specific protocol last.
    let rank = |inbound: &&Inbound| (std::cmp::Reverse(inbound.protocol()), inbound.service());
    inbounds.iter().copied().min_by_key(rank)
}

fn local_cluster_name(dataplane: &Dataplane, socket: SocketAddr) -> String {
    if socket.ip() == dataplane.address {
        names::local(socket.port())
    } else {
        names::local_at(socket)
    }
}

/// The cluster that connects to the application. It uses the address that the client has connected to, because the
/// application may listen only at addresses of one IP family.
fn local_cluster(dataplane: &Dataplane, socket: SocketAddr, protocol: Protocol) -> Cluster {
    let cluster = cluster::single_address(&local_cluster_name(dataplane, socket), socket);
    let cluster = if dataplane.transparent_proxying.is_some() {
        cluster::with_exempt_source(cluster, socket.is_ipv6())
    } else {
        cluster
    };
    match protocol {
        Protocol::Tcp | Protocol::Kafka => cluster,
        Protocol::Http => {
            cluster::with_http_options(cluster, HttpVersion::Http1, listener::HTTP_IDLE_TIMEOUT, None)
        }
        Protocol::Http2 => with_http2(cluster),
        Protocol::Grpc => cluster::with_endpoint_statistics(with_http2(cluster)),
    }
}

fn with_http2(cluster: Cluster) -> Cluster {
    cluster::with_http_options(cluster, HttpVersion::Http2, listener::HTTP_IDLE_TIMEOUT, None)
}

/// The network filters of a listener. Without `rules`, every caller is allowed.
fn filters_to_application(
    dataplane: &Dataplane,
    socket: SocketAddr,
    inbound: &Inbound,
    rules: Option<AccessRules>,
) -> Vec<Filter> {
    let cluster = local_cluster_name(dataplane, socket);
    let protocol = inbound.protocol();
    if !protocol.is_http() {
        let rbac = rules.map(|rules| rules.network_filter(&names::inbound(socket)));
        let to_application = listener::tcp_proxy(&cluster, &cluster, 1);
        return rbac.into_iter().chain([to_application]).collect();
    }
    let service = inbound.service();
    let service = service
        .as_ref()
        .map_or(cluster.as_str(), |service| service.as_str());
    let access = rules.map(|rules| HttpAccess {
        filter: rules.http_filter(),
        denial_text: denial_text(dataplane, service),
    });
    vec![http::inbound(socket, service, &cluster, access)]
}

/// The text of the response to a denied request, with Envoy's placeholder for the caller's identity.
fn denial_text(dataplane: &Dataplane, service: &str) -> String {
    let Dataplane { key, mesh, .. } = dataplane;
    // `%` begins a placeholder of Envoy's formatter.
    let problem = format!("the sidecar of Pod {key} denied the request to {service}").replace('%', "%%");
    let remedy = format!("create or change a MeshTrafficPermission in Mesh {mesh}").replace('%', "%%");
    format!(
        "{problem}: no MeshTrafficPermission allows the caller with the identity %DOWNSTREAM_PEER_URI_SAN%; {remedy}"
    )
}

/// Sets the filter chains of a listener for the mesh's mTLS mode.
fn with_filter_chains(base: Listener, mesh: &Mesh, filters: &[Filter]) -> Listener {
    let plain_chain = || listener::filter_chain(filters.to_vec());
    let Some(mesh_tls) = MeshTls::of(mesh) else {
        return Listener {
            filter_chains: vec![plain_chain()],
            ..base
        };
    };
    let mtls_chain = || FilterChain {
        transport_socket: Some(mesh_tls.downstream()),
        transport_socket_connect_timeout: duration(HANDSHAKE_TIMEOUT),
        ..plain_chain()
    };
    match mesh.mtls.as_ref().map(|mtls| mtls.mode).unwrap_or_default() {
        MtlsMode::Strict => Listener {
            filter_chains: vec![mtls_chain()],
            ..base
        },
        MtlsMode::Permissive => Listener {
            filter_chains: vec![
                FilterChain {
                    filter_chain_match: Some(match_transport("raw_buffer")),
                    ..plain_chain()
                },
                FilterChain {
                    // TLS of the application, which is treated like plain text.
                    filter_chain_match: Some(match_transport("tls")),
                    ..plain_chain()
                },
                FilterChain {
                    // Mesh TLS.
                    filter_chain_match: Some(FilterChainMatch {
                        application_protocols: vec![ALPN.into()],
                        ..match_transport("tls")
                    }),
                    ..mtls_chain()
                },
            ],
            listener_filters: vec![listener_filter(
                "envoy.filters.listener.tls_inspector",
                &TlsInspector::default(),
            )],
            listener_filters_timeout: duration(DETECTION_TIMEOUT),
            continue_on_listener_filters_timeout: true,
            ..base
        },
    }
}

fn match_transport(protocol: &str) -> FilterChainMatch {
    FilterChainMatch {
        transport_protocol: protocol.into(),
        ..Default::default()
    }
}
