//! Listener for virtual probes (docs/reference/injection.md#virtual-probes).
//!
//! The kubelet has no certificate of the mesh, so injection rewrites the application's probes and HTTP lifecycle hooks
//! to call this plain-text listener. The listener has a route for each of them. An HTTP or HTTPS route leads to the
//! original port and path of the application; a TCP or gRPC route leads to the agent ([`kermode_protocol::probes`]).

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption, TrafficDirection};
use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::ClusterSpecifier;
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::{HeaderMatcher, Route, RouteAction, RouteMatch};
use kermode_model::{ApplicationProbe, Dataplane, ProbeProtocol, percent_encode};
use kermode_protocol::bootstrap::AGENT_CLUSTER;
use kermode_protocol::probes::{ADDRESS_HEADER, GRPC_PATH, GRPC_SERVICE_HEADER, TCP_PATH};

use super::{cluster, http, listener, tls};
use crate::proto::{duration, exact};
use crate::{Resource, ResourceKind, names};

pub(crate) fn generate(dataplane: &Dataplane) -> Vec<Resource> {
    let Some(probes) = dataplane
        .probes
        .as_ref()
        .filter(|probes| !probes.endpoints.is_empty())
    else {
        return Vec::new();
    };
    let routes = probes
        .endpoints
        .iter()
        .map(|probe| route(dataplane, probe))
        .collect();
    let socket = SocketAddr::new(dataplane.address, probes.port);
    let manager = http::probes(socket, http::routes("", "probe", routes));
    let listener = Listener {
        filter_chains: vec![listener::filter_chain(vec![manager])],
        // Liveness probes must not fail under load, because the kubelet would restart the application.
        ignore_global_conn_limit: true,
        ..listener::new(names::PROBES, socket, TrafficDirection::Inbound)
    };
    clusters(dataplane, &probes.endpoints)
        .map(|cluster| Resource::encode(ResourceKind::Cluster, &cluster.name, &cluster))
        .chain([listener::encode(&listener)])
        .collect()
}

/// The clusters for HTTP and HTTPS probes, one for each protocol and port. They are separate from the clusters of the
/// inbounds: not every probed port has an inbound, and the kubelet probes an HTTP/2 application with HTTP/1.1.
fn clusters(dataplane: &Dataplane, probes: &[ApplicationProbe]) -> impl Iterator<Item = Cluster> {
    let ports: BTreeSet<_> = probes
        .iter()
        .filter(|probe| matches!(probe.protocol, ProbeProtocol::Http | ProbeProtocol::Https))
        .map(|probe| (probe.protocol, probe.inbound_port))
        .collect();
    ports.into_iter().map(|(protocol, port)| {
        let socket = SocketAddr::new(dataplane.address, port);
        let cluster = cluster::single_address(&names::probe(protocol, port), socket);
        let cluster = if dataplane.transparent_proxying.is_some() {
            cluster::with_exempt_source(cluster, socket.is_ipv6())
        } else {
            cluster
        };
        let tls = (protocol == ProbeProtocol::Https).then(tls::unverified);
        cluster::with_single_requests(cluster, tls)
    })
}

fn route(dataplane: &Dataplane, probe: &ApplicationProbe) -> Route {
    let is_get = HeaderMatcher {
        name: ":method".into(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(exact("GET"))),
        ..Default::default()
    };
    let path = without_query(&probe.path);
    let (cluster, new_path) = match probe.protocol {
        ProbeProtocol::Http | ProbeProtocol::Https => (
            names::probe(probe.protocol, probe.inbound_port),
            without_query(&probe.inbound_path),
        ),
        ProbeProtocol::Tcp => (AGENT_CLUSTER.to_owned(), TCP_PATH),
        ProbeProtocol::Grpc => (AGENT_CLUSTER.to_owned(), GRPC_PATH),
    };
    let action = RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster)),
        // The route matches the exact path, so the whole path is replaced. Envoy keeps the query of the request.
        prefix_rewrite: new_path.into(),
        // Zero disables the timeout: the kubelet ends the request after its own timeout.
        timeout: duration(Duration::ZERO),
        ..Default::default()
    };
    Route {
        r#match: Some(RouteMatch {
            headers: vec![is_get],
            path_specifier: Some(PathSpecifier::Path(path.into())),
            ..Default::default()
        }),
        request_headers_to_add: agent_headers(dataplane, probe),
        // The kubelet would follow a redirect to this listener, which has no route for the new location. Without the
        // header, the kubelet counts the redirect as a success.
        response_headers_to_remove: vec!["location".into()],
        action: Some(Action::Route(action)),
        ..Default::default()
    }
}

/// The headers that tell the agent what to probe. They replace headers of the same names in the request.
fn agent_headers(dataplane: &Dataplane, probe: &ApplicationProbe) -> Vec<HeaderValueOption> {
    let header = |key: &str, value: String| HeaderValueOption {
        header: Some(HeaderValue {
            key: key.into(),
            // `%` begins a command of Envoy's formatter.
            value: value.replace('%', "%%"),
            ..Default::default()
        }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        keep_empty_value: true,
        ..Default::default()
    };
    let address = || SocketAddr::new(dataplane.address, probe.inbound_port).to_string();
    match probe.protocol {
        ProbeProtocol::Http | ProbeProtocol::Https => Vec::new(),
        ProbeProtocol::Tcp => vec![header(ADDRESS_HEADER, address())],
        ProbeProtocol::Grpc => vec![
            header(ADDRESS_HEADER, address()),
            header(GRPC_SERVICE_HEADER, percent_encode(&probe.inbound_path)),
        ],
    }
}

fn without_query(path: &str) -> &str {
    path.split_once('?').map_or(path, |(path, _)| path)
}
