//! HTTP connection managers and their route tables.
//!
//! Two rules avoid lost requests during rollouts. Both rules retry only requests that no application has received
//! (docs/design.md#safe-retries):
//!
//! 1. A sidecar retries a request if it has sent nothing of the request, or if the server has refused the stream
//!    (`REFUSED_STREAM`, or a GOAWAY frame with a lower stream ID).
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
use envoy_types::pb::envoy::config::route::v3::route_action::{ClusterSpecifier, UpgradeConfig as RouteUpgradeConfig};
use envoy_types::pb::envoy::config::route::v3::route_match::{ConnectMatcher, PathSpecifier};
use envoy_types::pb::envoy::config::route::v3::{
    HeaderMatcher, RetryPolicy, Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost,
};
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::{
    ForwardClientCertDetails, RouteSpecifier, ServerHeaderTransformation, SetCurrentClientCertDetails, UpgradeConfig,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, LocalReplyConfig, ResponseMapper,
};
use envoy_types::pb::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use envoy_types::pb::envoy::r#type::matcher::v3::StringMatcher;

use super::cluster::{MAX_HEADERS, MAX_HEADERS_KB, http1_options as http1_upstream_options, http2_options};
use super::listener::HTTP_IDLE_TIMEOUT;
use crate::names;
use crate::proto::{any, boolean, duration, http_filter, network_filter, number, prefix};

/// Upgrades of HTTP/1.1 that sidecars forward. Envoy needs the list; it responds with 403 to all other upgrades.
///
/// `tcp` is the upgrade of Docker's API, and `SPDY/3.1` that of the Kubernetes API for `exec` and `port-forward`.
const UPGRADES: [&str; 3] = ["websocket", "tcp", "SPDY/3.1"];
/// Prefixes of upgrades that sidecars remove from requests. The request is then served without the upgrade, as by a
/// server that does not support it. Some clients always offer an upgrade: Apache HttpClient offers `TLS/1.2` with each GET
/// request. Envoy always removes `h2c`.
const REMOVED_UPGRADES: [&str; 2] = ["TLS/", "HTTP/"];
/// Envoy's upgrade type for CONNECT requests.
const CONNECT: &str = "CONNECT";
/// Timeout of the header of a request. An application could not end such a request, because it has not received it.
const REQUEST_HEADERS_TIMEOUT: Duration = Duration::from_mins(1);
/// Timeout of a probe or lifecycle hook that sends and receives nothing. A lifecycle hook may take as long as the grace
/// period of its Pod.
const PROBE_IDLE_TIMEOUT: Duration = Duration::from_hours(1);
/// Time after which a connection of a collector without a request is closed.
const METRICS_IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// Value of a timeout that disables it.
const NO_TIMEOUT: Duration = Duration::ZERO;
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

/// The connection manager of an inbound listener, for requests from clients to the application. Without `access`,
/// every caller is allowed.
pub(crate) fn inbound(
    listen_address: SocketAddr,
    service: &str,
    local_cluster: &str,
    access: Option<HttpAccess>,
) -> Filter {
    // The application may close an idle connection just before Envoy sends a request on it. An application that limits
    // the number of requests on an HTTP/2 connection refuses the streams above its limit. The connection carries the
    // requests of many clients, so it reaches the limit earlier than a connection of one client.
    let retry = RetryPolicy {
        retry_on: "reset-before-request,refused-stream".into(),
        num_retries: number(2),
        ..Default::default()
    };
    let routes = RouteConfiguration {
        request_headers_to_remove: vec![KUMA_TAGS_HEADER.into()],
        ..routes_to_cluster("inbound", service, action_to_cluster(local_cluster), retry)
    };
    let defaults = manager_with_defaults(routes);
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
pub(crate) fn outbound(listen_address: SocketAddr, service: &str, cluster: &str, by_client: bool) -> Filter {
    let source_ip = HashPolicy {
        policy_specifier: Some(PolicySpecifier::ConnectionProperties(ConnectionProperties {
            source_ip: true,
        })),
        ..Default::default()
    };
    let action = RouteAction {
        hash_policy: if by_client { vec![source_ip] } else { Vec::new() },
        ..action_to_cluster(cluster)
    };
    let routes = routes_to_cluster("outbound", service, action, retry_at_another_endpoint());
    manager_filter(
        listen_address,
        HttpConnectionManager {
            stat_prefix: names::OUTBOUND_STATISTICS.into(),
            ..manager_with_defaults(routes)
        },
    )
}

/// The connection manager of the listener for virtual probes. Envoy's timeout is long, so that the timeouts of the
/// kubelet apply.
pub(crate) fn probes(listen_address: SocketAddr, routes: RouteConfiguration) -> Filter {
    manager_filter(
        listen_address,
        HttpConnectionManager {
            stat_prefix: names::stat_name(names::PROBES),
            http_filters: vec![router()],
            stream_idle_timeout: duration(PROBE_IDLE_TIMEOUT),
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

/// The connection manager of the listener for collectors of metrics. Connections close after one response, or after 10 s
/// without a request, so that a collector does not delay the drain.
pub(crate) fn metrics(listen_address: SocketAddr, routes: RouteConfiguration) -> Filter {
    manager_filter(
        listen_address,
        HttpConnectionManager {
            stat_prefix: names::stat_name(names::METRICS),
            http_filters: vec![router()],
            common_http_protocol_options: Some(HttpProtocolOptions {
                idle_timeout: duration(METRICS_IDLE_TIMEOUT),
                max_requests_per_connection: number(1),
                ..Default::default()
            }),
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

fn manager_with_defaults(routes: RouteConfiguration) -> HttpConnectionManager {
    HttpConnectionManager {
        http_filters: vec![router()],
        common_http_protocol_options: Some(HttpProtocolOptions {
            idle_timeout: duration(HTTP_IDLE_TIMEOUT),
            max_headers_count: number(MAX_HEADERS),
            ..Default::default()
        }),
        http2_protocol_options: Some(http2_options()),
        max_request_headers_kb: number(MAX_HEADERS_KB),
        // A stream may be idle for hours, such as the stream of a watch. The keepalive of its connection detects
        // disappeared clients.
        stream_idle_timeout: duration(NO_TIMEOUT),
        upgrade_configs: UPGRADES.into_iter().chain([CONNECT]).map(upgrade).collect(),
        // The application decides whether the client may send the body of its request.
        proxy_100_continue: true,
        server_header_transformation: ServerHeaderTransformation::PassThrough.into(),
        route_specifier: Some(RouteSpecifier::RouteConfig(routes)),
        ..Default::default()
    }
}

fn manager_filter(listen_address: SocketAddr, manager: HttpConnectionManager) -> Filter {
    let manager = HttpConnectionManager {
        http_protocol_options: Some(http1_options(listen_address)),
        request_headers_timeout: duration(REQUEST_HEADERS_TIMEOUT),
        ..manager
    };
    network_filter("envoy.filters.network.http_connection_manager", &manager)
}

fn upgrade(upgrade_type: &str) -> UpgradeConfig {
    UpgradeConfig {
        upgrade_type: upgrade_type.into(),
        ..Default::default()
    }
}

/// HTTP/1 options that accept HTTP/1.0, which Envoy rejects by default with status 426, and trailers, which Envoy
/// drops by default.
///
/// An HTTP/1.0 request may lack the header `host`, but HTTP/2 between sidecars requires a host. The default host is the
/// address of the listener.
fn http1_options(listen_address: SocketAddr) -> Http1ProtocolOptions {
    let removed_upgrade = |upgrade: &str| StringMatcher {
        ignore_case: true,
        ..prefix(upgrade)
    };
    Http1ProtocolOptions {
        accept_http_10: true,
        default_host_for_http_10: listen_address.to_string(),
        ignore_http_11_upgrade: REMOVED_UPGRADES.into_iter().map(removed_upgrade).collect(),
        ..http1_upstream_options()
    }
}

fn router() -> HttpFilter {
    let router = Router {
        // A response would get the duration of the request in a header from each sidecar.
        suppress_envoy_headers: true,
        ..Default::default()
    };
    http_filter("envoy.filters.http.router", &router)
}

fn action_to_cluster(cluster: &str) -> RouteAction {
    RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.into())),
        // Zero disables the timeout: a response may take arbitrarily long.
        timeout: duration(NO_TIMEOUT),
        ..Default::default()
    }
}

/// A route table that applies one action and one retry policy to all requests. CONNECT requests have no path, so they have
/// a route of their own.
fn routes_to_cluster(
    direction: &str,
    service: &str,
    action: RouteAction,
    retry: RetryPolicy,
) -> RouteConfiguration {
    let connect_action = RouteAction {
        upgrade_configs: vec![RouteUpgradeConfig {
            upgrade_type: CONNECT.into(),
            ..Default::default()
        }],
        ..action.clone()
    };
    let routes_by_path = [
        (PathSpecifier::ConnectMatcher(ConnectMatcher {}), connect_action),
        (PathSpecifier::Prefix("/".into()), action),
    ];
    let route = |(path, action)| Route {
        r#match: Some(RouteMatch {
            path_specifier: Some(path),
            ..Default::default()
        }),
        action: Some(Action::Route(action)),
        ..Default::default()
    };
    let routes_to_cluster = routes_by_path.into_iter().map(route).collect();
    let table = routes(&format!("{direction}:{service}"), service, routes_to_cluster);
    let with_retries = |host| VirtualHost {
        retry_policy: Some(retry.clone()),
        ..host
    };
    RouteConfiguration {
        virtual_hosts: table.virtual_hosts.into_iter().map(with_retries).collect(),
        response_headers_to_remove: vec![UNDELIVERED_HEADER.into()],
        ..table
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
/// filter generates responses with status 403, and so does Envoy for an upgrade that is not one of [`UPGRADES`]. Responses
/// of the application with status 403 are not changed.
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
