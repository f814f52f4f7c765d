//! Listener for collectors of metrics, such as Prometheus (docs/reference/metrics.md#metrics-of-the-sidecar).
//!
//! A Pod asks for this plain-text listener with an annotation. The listener forwards one path to the agent, which responds
//! with the metrics of Envoy and with its own ([`kermode_protocol::metrics`]).

use std::net::SocketAddr;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::TrafficDirection;
use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::ClusterSpecifier;
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::{HeaderMatcher, Route, RouteAction, RouteMatch};
use kermode_model::{Dataplane, Metrics};
use kermode_protocol::bootstrap::AGENT_CLUSTER;
use kermode_protocol::metrics::SCRAPE_PATH;

use super::{http, listener};
use crate::proto::{duration, exact};
use crate::{Resource, names};

/// Timeout of a complete response, also if the client does not read it: the agent serves few scrapes at a time. A scrape by
/// Prometheus times out after 10 s by default. The value is Envoy's default.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(15);

/// Returns the listener. Returns no listener for a Pod that does not ask for one, or whose port is already the port of
/// another listener.
pub(crate) fn generate(dataplane: &Dataplane) -> Option<Resource> {
    let metrics = dataplane.metrics.as_ref()?;
    let port = dataplane.metrics_port().filter(|port| *port != 0)?;
    if dataplane.metrics_port_conflict().is_some() {
        return None;
    }
    let is_get = HeaderMatcher {
        name: ":method".into(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(exact("GET"))),
        ..Default::default()
    };
    let route = Route {
        r#match: Some(RouteMatch {
            headers: vec![is_get],
            path_specifier: Some(PathSpecifier::Path(path(metrics))),
            ..Default::default()
        }),
        action: Some(Action::Route(RouteAction {
            cluster_specifier: Some(ClusterSpecifier::Cluster(AGENT_CLUSTER.into())),
            // The route matches the exact path, so the whole path is replaced.
            prefix_rewrite: SCRAPE_PATH.into(),
            timeout: duration(SCRAPE_TIMEOUT),
            ..Default::default()
        })),
        ..Default::default()
    };
    let socket = SocketAddr::new(dataplane.address, port);
    let manager = http::metrics(socket, http::routes("", "metrics", vec![route]));
    let listener = Listener {
        filter_chains: vec![listener::filter_chain(vec![manager])],
        ..listener::new(names::METRICS, socket, TrafficDirection::Inbound)
    };
    Some(listener::encode(&listener))
}

/// Returns the path of the endpoint, which begins with a slash and has no query.
fn path(metrics: &Metrics) -> String {
    let path = metrics.path.as_deref().unwrap_or(Metrics::DEFAULT_PATH);
    let path = path.split('?').next().unwrap_or_default();
    format!("/{}", path.strip_prefix('/').unwrap_or(path))
}
