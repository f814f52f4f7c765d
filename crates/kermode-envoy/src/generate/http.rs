//! HTTP connection managers, with their one route.
//!
//! Two rules keep rollouts from losing requests without ever repeating one that the application may have seen.
//! Between sidecars a request is tried again only when it did not get onto a connection. And when the far
//! sidecar could not connect to its application (which often exits before its endpoint is withdrawn), it marks
//! its 503 as undelivered, and the near sidecar goes on to another endpoint.

use std::time::Duration;

use envoy_types::pb::envoy::config::accesslog::v3::access_log_filter::FilterSpecifier;
use envoy_types::pb::envoy::config::accesslog::v3::{AccessLogFilter, ResponseFlagFilter};
use envoy_types::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption, HttpProtocolOptions};
use envoy_types::pb::envoy::config::listener::v3::Filter;
use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::retry_policy::{RetryBackOff, RetryHostPredicate, retry_host_predicate};
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::ClusterSpecifier;
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::{
    HeaderMatcher, RetryPolicy, Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost,
};
use envoy_types::pb::envoy::extensions::filters::http::grpc_stats::v3::FilterConfig as GrpcStats;
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::{
    ForwardClientCertDetails, RouteSpecifier, SetCurrentClientCertDetails, UpgradeConfig,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, LocalReplyConfig, ResponseMapper,
};
use envoy_types::pb::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use kermode_model::Protocol;

use super::cluster::http2;
use super::listener::IDLE_TIMEOUT;
use crate::names;
use crate::proto::{any, boolean, duration, http_filter, network_filter, number};

/// How long a stream may carry nothing (BEHAVIOUR section 6.2).
const STREAM_IDLE_TIMEOUT: Duration = Duration::from_hours(1);
/// Marks an answer to a request that no application has seen. Sidecars strip it in both directions.
const UNDELIVERED: &str = "x-kermode-undelivered";
/// The header by which Kuma's sidecars tell the caller's tags; an inbound never lets it through.
const KUMA_TAGS: &str = "x-kuma-tags";
/// Tries after the first: with half of a service's endpoints gone, six tries in a row still miss 1.6 % of the time
/// at worst (tried endpoints are avoided).
const RETRIES: u32 = 5;
/// Envoy's flag for "could not connect to the upstream".
const CONNECTION_FAILURE: &str = "UF";

/// Requests from other sidecars to the application.
pub(crate) fn inbound(service: &str, local_cluster: &str, protocol: Protocol) -> Filter {
    // Only for connections that the application closed while a request was about to be sent on them.
    let retry = RetryPolicy {
        retry_on: "reset-before-request".into(),
        num_retries: number(2),
        ..Default::default()
    };
    let routes = RouteConfiguration {
        request_headers_to_remove: vec![KUMA_TAGS.into()],
        ..to_cluster("inbound", service, local_cluster, retry)
    };
    manager(HttpConnectionManager {
        stat_prefix: names::stat(local_cluster),
        forward_client_cert_details: ForwardClientCertDetails::SanitizeSet.into(),
        set_current_client_cert_details: Some(SetCurrentClientCertDetails {
            uri: true,
            ..Default::default()
        }),
        local_reply_config: Some(mark_undelivered()),
        ..base(routes, protocol)
    })
}

/// Requests from the application to a service.
pub(crate) fn outbound(service: &str, cluster: &str, protocol: Protocol) -> Filter {
    let routes = to_cluster("outbound", service, cluster, to_another_endpoint());
    manager(HttpConnectionManager {
        stat_prefix: names::stat(cluster),
        ..base(routes, protocol)
    })
}

/// Requests to Envoy or the kubelet's probes: no retries, no idle connections of hours.
pub(crate) fn plain(stat_prefix: &str, routes: RouteConfiguration) -> Filter {
    manager(HttpConnectionManager {
        stat_prefix: names::stat(stat_prefix),
        http_filters: vec![router()],
        route_specifier: Some(RouteSpecifier::RouteConfig(routes)),
        ..Default::default()
    })
}

/// A route table with one virtual host for every domain.
pub(crate) fn routes(name: &str, host: &str, routes: Vec<Route>) -> RouteConfiguration {
    RouteConfiguration {
        name: name.into(),
        virtual_hosts: vec![VirtualHost {
            name: host.into(),
            domains: vec!["*".into()],
            routes,
            ..Default::default()
        }],
        // The cluster may be on its way: a listener must not be refused for that.
        validate_clusters: boolean(false),
        ..Default::default()
    }
}

fn base(routes: RouteConfiguration, protocol: Protocol) -> HttpConnectionManager {
    let stats = (protocol == Protocol::Grpc).then(grpc_stats);
    HttpConnectionManager {
        http_filters: stats.into_iter().chain([router()]).collect(),
        common_http_protocol_options: Some(HttpProtocolOptions {
            idle_timeout: duration(IDLE_TIMEOUT),
            ..Default::default()
        }),
        http2_protocol_options: Some(http2()),
        stream_idle_timeout: duration(STREAM_IDLE_TIMEOUT),
        upgrade_configs: vec![UpgradeConfig {
            upgrade_type: "websocket".into(),
            ..Default::default()
        }],
        route_specifier: Some(RouteSpecifier::RouteConfig(routes)),
        ..Default::default()
    }
}

fn manager(manager: HttpConnectionManager) -> Filter {
    network_filter("envoy.filters.network.http_connection_manager", &manager)
}

fn router() -> HttpFilter {
    http_filter("envoy.filters.http.router", &Router::default())
}

fn grpc_stats() -> HttpFilter {
    http_filter(
        "envoy.filters.http.grpc_stats",
        &GrpcStats {
            emit_filter_state: true,
            ..Default::default()
        },
    )
}

fn to_cluster(direction: &str, service: &str, cluster: &str, retry: RetryPolicy) -> RouteConfiguration {
    let action = RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.into())),
        // No limit: how long an answer may take is the application's business.
        timeout: duration(Duration::ZERO),
        retry_policy: Some(retry),
        ..Default::default()
    };
    let route = Route {
        r#match: Some(RouteMatch {
            path_specifier: Some(PathSpecifier::Prefix("/".into())),
            ..Default::default()
        }),
        action: Some(Action::Route(action)),
        ..Default::default()
    };
    RouteConfiguration {
        response_headers_to_remove: vec![UNDELIVERED.into()],
        ..routes(&format!("{direction}:{service}"), service, vec![route])
    }
}

fn to_another_endpoint() -> RetryPolicy {
    let previous_hosts = RetryHostPredicate {
        name: "envoy.retry_host_predicates.previous_hosts".into(),
        config_type: Some(retry_host_predicate::ConfigType::TypedConfig(any(
            &PreviousHostsPredicate {},
        ))),
    };
    RetryPolicy {
        retry_on: "connect-failure,refused-stream,reset-before-request,retriable-headers".into(),
        num_retries: number(RETRIES),
        retriable_headers: vec![HeaderMatcher {
            name: UNDELIVERED.into(),
            header_match_specifier: Some(HeaderMatchSpecifier::PresentMatch(true)),
            ..Default::default()
        }],
        retry_host_predicate: vec![previous_hosts],
        host_selection_retry_max_attempts: i64::from(RETRIES),
        retry_back_off: Some(RetryBackOff {
            base_interval: duration(Duration::from_millis(10)),
            max_interval: duration(Duration::from_millis(250)),
        }),
        ..Default::default()
    }
}

fn mark_undelivered() -> LocalReplyConfig {
    let flag = ResponseFlagFilter {
        flags: vec![CONNECTION_FAILURE.into()],
    };
    let header = HeaderValueOption {
        header: Some(HeaderValue {
            key: UNDELIVERED.into(),
            value: "true".into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let mapper = ResponseMapper {
        filter: Some(AccessLogFilter {
            filter_specifier: Some(FilterSpecifier::ResponseFlagFilter(flag)),
        }),
        headers_to_add: vec![header],
        ..Default::default()
    };
    LocalReplyConfig {
        mappers: vec![mapper],
        ..Default::default()
    }
}
