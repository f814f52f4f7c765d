//! Listener for readiness probes of Envoy (docs/reference/envoy.md#readiness-and-probes).
//!
//! Envoy's admin interface listens only on loopback, because its clients can stop Envoy. This listener on the Pod's
//! address forwards the path `/ready`, which the kubelet probes, and no other path.

use std::net::{Ipv4Addr, SocketAddr};

use envoy_types::pb::envoy::config::core::v3::TrafficDirection;
use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::ClusterSpecifier;
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::{Route, RouteAction, RouteMatch};
use kermode_model::Dataplane;

use super::{cluster, http, listener};
use crate::{Resource, ResourceKind, names};

/// Returns the listener, and the cluster to which the listener forwards `/ready`.
pub(crate) fn generate(dataplane: &Dataplane) -> Vec<Resource> {
    // The admin interface already listens on the loopback address.
    if dataplane.address.is_loopback() {
        return Vec::new();
    }
    let port = dataplane.admin_port.unwrap_or(Dataplane::DEFAULT_ADMIN_PORT);
    let admin_address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let cluster = cluster::single_address(names::ADMIN, admin_address);
    let ready = Route {
        r#match: Some(RouteMatch {
            path_specifier: Some(PathSpecifier::Path("/ready".into())),
            ..Default::default()
        }),
        action: Some(Action::Route(RouteAction {
            cluster_specifier: Some(ClusterSpecifier::Cluster(names::ADMIN.into())),
            ..Default::default()
        })),
        ..Default::default()
    };
    let routes = http::routes(names::ADMIN, names::ADMIN, vec![ready]);
    let listen_address = SocketAddr::new(dataplane.address, port);
    let manager = http::admin(listen_address, routes);
    let listener = Listener {
        filter_chains: vec![listener::filter_chain(vec![manager])],
        // Readiness probes must not fail under load.
        ignore_global_conn_limit: true,
        ..listener::new(names::ADMIN, listen_address, TrafficDirection::Inbound)
    };
    vec![
        Resource::encode(ResourceKind::Cluster, names::ADMIN, &cluster),
        listener::encode(&listener),
    ]
}
