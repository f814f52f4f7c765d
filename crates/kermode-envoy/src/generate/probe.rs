//! Listener for virtual probes (docs/reference/injection.md#virtual-probes).
//!
//! The kubelet has no certificate of the mesh, so injection rewrites the application's HTTP probes to call this
//! plain-text listener. The listener maps each probe to its original port and path.

use std::net::SocketAddr;

use envoy_types::pb::envoy::config::core::v3::TrafficDirection;
use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::redirect_action::PathRewriteSpecifier;
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::ClusterSpecifier;
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::{
    HeaderMatcher, RedirectAction, Route, RouteAction, RouteMatch,
};
use kermode_model::{ApplicationProbe, Dataplane};

use super::{http, listener};
use crate::proto::exact;
use crate::{Resource, names};

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
    let manager = http::without_retries(socket, names::PROBES, http::routes("", "probe", routes));
    let listener = Listener {
        filter_chains: vec![listener::filter_chain(vec![manager])],
        // Liveness probes must not fail under load, because the kubelet would restart the application.
        ignore_global_conn_limit: true,
        ..listener::new(names::PROBES, socket, TrafficDirection::Inbound)
    };
    vec![listener::encode(&listener)]
}

fn route(dataplane: &Dataplane, probe: &ApplicationProbe) -> Route {
    let is_get = HeaderMatcher {
        name: ":method".into(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(exact("GET"))),
        ..Default::default()
    };
    let path = without_query(&probe.path);
    let has_inbound = dataplane
        .inbounds
        .iter()
        .any(|inbound| inbound.port == probe.inbound_port);
    Route {
        r#match: Some(RouteMatch {
            headers: vec![is_get],
            path_specifier: Some(PathSpecifier::Path(path.into())),
            ..Default::default()
        }),
        action: Some(if has_inbound {
            forward_to_application(probe)
        } else {
            redirect_to_port(probe)
        }),
        ..Default::default()
    }
}

fn forward_to_application(probe: &ApplicationProbe) -> Action {
    Action::Route(RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster(names::local(probe.inbound_port))),
        // The route matches the exact path, so the rewrite replaces the whole path. Envoy keeps the request's query.
        prefix_rewrite: without_query(&probe.inbound_path).into(),
        ..Default::default()
    })
}

/// Redirects the kubelet to a port of the application that has no inbound. The kubelet's request to this port then uses
/// inbound passthrough.
fn redirect_to_port(probe: &ApplicationProbe) -> Action {
    Action::Redirect(RedirectAction {
        port_redirect: u32::from(probe.inbound_port),
        path_rewrite_specifier: Some(PathRewriteSpecifier::PathRedirect(
            without_query(&probe.inbound_path).into(),
        )),
        ..Default::default()
    })
}

fn without_query(path: &str) -> &str {
    path.split_once('?').map_or(path, |(path, _)| path)
}
