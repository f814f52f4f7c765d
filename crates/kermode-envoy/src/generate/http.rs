//! HTTP connection managers and their route tables.
//!
//! Two rules avoid lost requests during rollouts. Both rules retry only requests that no application has received
//! (docs/design.md#safe-retries):
//!
//! 1. A sidecar retries a request if it has sent nothing of the request. The client's sidecar also retries a request
//!    that the server's sidecar has refused (`REFUSED_STREAM`).
//! 2. If the server's sidecar cannot connect to its application, the server's sidecar marks its 503 response as
//!    undelivered. The client's sidecar then retries the request at another endpoint.

use std::net::SocketAddr;
use std::time::Duration;

use envoy_types::pb::envoy::config::accesslog::v3::access_log_filter::FilterSpecifier;
use envoy_types::pb::envoy::config::accesslog::v3::{
    AccessLogFilter, ComparisonFilter, ResponseFlagFilter, StatusCodeFilter, comparison_filter::Op,
};
use envoy_types::pb::envoy::config::core::v3::data_source::Specifier as TextSource;
use envoy_types::pb::envoy::config::core::v3::substitution_format_string::Format;
use envoy_types::pb::envoy::config::core::v3::{
    DataSource, HeaderValue, HeaderValueOption, Http1ProtocolOptions, HttpProtocolOptions, RuntimeUInt32,
    SubstitutionFormatString,
};
use envoy_types::pb::envoy::config::listener::v3::Filter;
use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::route_action::HashPolicy;
use envoy_types::pb::envoy::config::route::v3::route_action::hash_policy::{ConnectionProperties, PolicySpecifier};
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

use super::cluster::http2_options;
use super::listener::IDLE_TIMEOUT;
use crate::names;
use crate::proto::{any, boolean, duration, http_filter, network_filter, number};

/// Idle timeout of an HTTP stream (docs/reference/envoy.md#timeouts).
const STREAM_IDLE_TIMEOUT: Duration = Duration::from_hours(1);
/// Header that a server's sidecar adds to its own response if the application has not received the request. The
/// server's sidecar removes the header from responses of the application, and the client's sidecar from all responses.
const UNDELIVERED_HEADER: &str = "x-kermode-undelivered";
/// Header in which Kuma's sidecars send the caller's tags. Inbound listeners remove it, because a client could forge
/// it.
const KUMA_TAGS_HEADER: &str = "x-kuma-tags";
/// Maximum number of retries by the client's sidecar. If half of a service's endpoints are unreachable, all six
/// attempts (the first one and five retries) fail for at most 1.6 % of the requests (0.5^6).
const MAX_RETRIES: u32 = 5;
/// Envoy's response flag for a failed upstream connection.
const CONNECTION_FAILURE_FLAG: &str = "UF";

/// Access control of an inbound.
pub(crate) struct HttpAccess {
    /// The filter that denies requests.
    pub(crate) filter: HttpFilter,
    /// Text of the response to a denied request, in Envoy's format for access logs.
    pub(crate) denial_text: String,
}

/// The connection manager of an inbound listener, for requests from clients to the application. `access` is absent
/// without mTLS.
pub(crate) fn inbound(
    listen_address: SocketAddr,
    service: &str,
    local_cluster: &str,
    protocol: Protocol,
    access: Option<HttpAccess>,
) -> Filter {
    // The application may close an idle connection just before Envoy sends a request on it.
    let retry = RetryPolicy {
        retry_on: "reset-before-request".into(),
        num_retries: number(2),
        ..Default::default()
    };
    let routes = RouteConfiguration {
        request_headers_to_remove: vec![KUMA_TAGS_HEADER.into()],
        ..routes_to_cluster("inbound", service, action_to_cluster(local_cluster, retry))
    };
    let defaults = manager_with_defaults(routes, protocol);
    let (rbac, denial) = access
        .map(|access| (access.filter, denial_response(access.denial_text)))
        .unzip();
    let local_replies = LocalReplyConfig {
        mappers: [undelivered_marker()].into_iter().chain(denial).collect(),
        ..Default::default()
    };
    manager_filter(
        listen_address,
        HttpConnectionManager {
            http_filters: rbac.into_iter().chain(defaults.http_filters).collect(),
            stat_prefix: names::stat_name(local_cluster),
            forward_client_cert_details: ForwardClientCertDetails::SanitizeSet.into(),
            set_current_client_cert_details: Some(SetCurrentClientCertDetails {
                uri: true,
                ..Default::default()
            }),
            local_reply_config: Some(local_replies),
            ..defaults
        },
    )
}

/// The connection manager of an outbound listener, for requests from the application to a service. With `by_client`,
/// the hash of the client's address determines the endpoint.
pub(crate) fn outbound(
    listen_address: SocketAddr,
    service: &str,
    cluster: &str,
    protocol: Protocol,
    by_client: bool,
) -> Filter {
    let source_ip = HashPolicy {
        policy_specifier: Some(PolicySpecifier::ConnectionProperties(ConnectionProperties {
            source_ip: true,
        })),
        ..Default::default()
    };
    let action = RouteAction {
        hash_policy: if by_client { vec![source_ip] } else { Vec::new() },
        ..action_to_cluster(cluster, retry_at_another_endpoint())
    };
    let routes = routes_to_cluster("outbound", service, action);
    manager_filter(
        listen_address,
        HttpConnectionManager {
            stat_prefix: names::stat_name(cluster),
            ..manager_with_defaults(routes, protocol)
        },
    )
}

/// The connection manager of the listener for virtual probes. Envoy's timeout is long, so that the timeouts of the
/// kubelet apply: a lifecycle hook may take as long as the Pod's grace period.
pub(crate) fn probes(listen_address: SocketAddr, routes: RouteConfiguration) -> Filter {
    manager_filter(
        listen_address,
        HttpConnectionManager {
            stat_prefix: names::stat_name(names::PROBES),
            http_filters: vec![router()],
            stream_idle_timeout: duration(STREAM_IDLE_TIMEOUT),
            route_specifier: Some(RouteSpecifier::RouteConfig(routes)),
            ..Default::default()
        },
    )
}

/// The connection manager of the listener for Envoy's admin interface, with Envoy's default timeouts.
pub(crate) fn admin(listen_address: SocketAddr, routes: RouteConfiguration) -> Filter {
    manager_filter(
        listen_address,
        HttpConnectionManager {
            stat_prefix: names::stat_name(names::ADMIN),
            http_filters: vec![router()],
            route_specifier: Some(RouteSpecifier::RouteConfig(routes)),
            ..Default::default()
        },
    )
}

/// A route table with a single virtual host, which matches all domains.
pub(crate) fn routes(name: &str, virtual_host: &str, routes: Vec<Route>) -> RouteConfiguration {
    RouteConfiguration {
        name: name.into(),
        virtual_hosts: vec![VirtualHost {
            name: virtual_host.into(),
            domains: vec!["*".into()],
            routes,
            ..Default::default()
        }],
        // Envoy must accept a listener even if its cluster arrives later.
        validate_clusters: boolean(false),
        ..Default::default()
    }
}

fn manager_with_defaults(routes: RouteConfiguration, protocol: Protocol) -> HttpConnectionManager {
    let stats = (protocol == Protocol::Grpc).then(grpc_stats);
    HttpConnectionManager {
        http_filters: stats.into_iter().chain([router()]).collect(),
        common_http_protocol_options: Some(HttpProtocolOptions {
            idle_timeout: duration(IDLE_TIMEOUT),
            ..Default::default()
        }),
        http2_protocol_options: Some(http2_options()),
        stream_idle_timeout: duration(STREAM_IDLE_TIMEOUT),
        upgrade_configs: vec![UpgradeConfig {
            upgrade_type: "websocket".into(),
            ..Default::default()
        }],
        route_specifier: Some(RouteSpecifier::RouteConfig(routes)),
        ..Default::default()
    }
}

fn manager_filter(listen_address: SocketAddr, manager: HttpConnectionManager) -> Filter {
    let manager = HttpConnectionManager {
        http_protocol_options: Some(http1_options(listen_address)),
        ..manager
    };
    network_filter("envoy.filters.network.http_connection_manager", &manager)
}

/// HTTP/1 options that accept HTTP/1.0, which Envoy rejects by default with status 426.
///
/// An HTTP/1.0 request may lack the header `host`, but HTTP/2 between sidecars requires a host. The default host is the
/// address of the listener.
fn http1_options(listen_address: SocketAddr) -> Http1ProtocolOptions {
    Http1ProtocolOptions {
        accept_http_10: true,
        default_host_for_http_10: listen_address.to_string(),
        ..Default::default()
    }
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

fn action_to_cluster(cluster: &str, retry: RetryPolicy) -> RouteAction {
    RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.into())),
        // Zero disables the timeout: a response may take arbitrarily long.
        timeout: duration(Duration::ZERO),
        retry_policy: Some(retry),
        ..Default::default()
    }
}

/// A route table that applies one action to all requests.
fn routes_to_cluster(direction: &str, service: &str, action: RouteAction) -> RouteConfiguration {
    let route = Route {
        r#match: Some(RouteMatch {
            path_specifier: Some(PathSpecifier::Prefix("/".into())),
            ..Default::default()
        }),
        action: Some(Action::Route(action)),
        ..Default::default()
    };
    RouteConfiguration {
        response_headers_to_remove: vec![UNDELIVERED_HEADER.into()],
        ..routes(&format!("{direction}:{service}"), service, vec![route])
    }
}

fn retry_at_another_endpoint() -> RetryPolicy {
    let previous_hosts = RetryHostPredicate {
        name: "envoy.retry_host_predicates.previous_hosts".into(),
        config_type: Some(retry_host_predicate::ConfigType::TypedConfig(any(
            &PreviousHostsPredicate {},
        ))),
    };
    RetryPolicy {
        retry_on: "connect-failure,refused-stream,reset-before-request,retriable-headers".into(),
        num_retries: number(MAX_RETRIES),
        retriable_headers: vec![HeaderMatcher {
            name: UNDELIVERED_HEADER.into(),
            header_match_specifier: Some(HeaderMatchSpecifier::PresentMatch(true)),
            ..Default::default()
        }],
        retry_host_predicate: vec![previous_hosts],
        host_selection_retry_max_attempts: i64::from(MAX_RETRIES),
        retry_back_off: Some(RetryBackOff {
            base_interval: duration(Duration::from_millis(10)),
            max_interval: duration(Duration::from_millis(250)),
        }),
        ..Default::default()
    }
}

/// Adds [`UNDELIVERED_HEADER`] to Envoy's own response if Envoy could not connect to the application.
fn undelivered_marker() -> ResponseMapper {
    let flag = ResponseFlagFilter {
        flags: vec![CONNECTION_FAILURE_FLAG.into()],
    };
    let header = HeaderValueOption {
        header: Some(HeaderValue {
            key: UNDELIVERED_HEADER.into(),
            value: "true".into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    ResponseMapper {
        filter: Some(AccessLogFilter {
            filter_specifier: Some(FilterSpecifier::ResponseFlagFilter(flag)),
        }),
        headers_to_add: vec![header],
        ..Default::default()
    }
}

/// Sets the text of Envoy's own responses with status 403; in a gRPC response, the text is the status message. The RBAC
/// filter generates responses with status 403, and so does Envoy for an upgrade other than WebSocket. 403 responses of
/// the application are not changed.
fn denial_response(text: String) -> ResponseMapper {
    let is_forbidden = StatusCodeFilter {
        comparison: Some(ComparisonFilter {
            op: Op::Eq.into(),
            value: Some(RuntimeUInt32 {
                default_value: 403,
                // Envoy requires a key; nothing sets it.
                runtime_key: "kermode.denied_status".into(),
            }),
        }),
    };
    ResponseMapper {
        filter: Some(AccessLogFilter {
            filter_specifier: Some(FilterSpecifier::StatusCodeFilter(is_forbidden)),
        }),
        body_format_override: Some(SubstitutionFormatString {
            format: Some(Format::TextFormatSource(DataSource {
                specifier: Some(TextSource::InlineString(text)),
                ..Default::default()
            })),
            ..Default::default()
        }),
        ..Default::default()
    }
}
