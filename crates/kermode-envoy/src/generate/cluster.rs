//! Constructors for clusters, with the options that all clusters share.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::circuit_breakers::Thresholds;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, DiscoveryType, EdsClusterConfig, LbPolicy,
};
use envoy_types::pb::envoy::config::cluster::v3::{
    CircuitBreakers, Cluster, TrackClusterStats, UpstreamConnectionOptions,
};
use envoy_types::pb::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use envoy_types::pb::envoy::config::core::v3::{
    AggregatedConfigSource, ApiVersion, BindConfig, ConfigSource, Http1ProtocolOptions, Http2ProtocolOptions,
    HttpProtocolOptions as CommonHttpOptions, KeepaliveSettings, Metadata, RoutingPriority, TransportSocket,
};
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints,
};
use envoy_types::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::explicit_http_config::ProtocolConfig;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::{
    AutoHttpConfig, ExplicitHttpConfig, UpstreamProtocolOptions,
};

use super::listener::keepalive;
use crate::names;
use crate::proto::{address, any, boolean, duration, number, socket_address};

/// Default timeout of a connection attempt, TLS handshake included (docs/reference/envoy.md#timeouts).
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Timeout of a connection attempt to an endpoint of a service, or to a ClusterIP whose endpoint the node chooses. It is
/// short, because another endpoint may be tried. Two lost SYN packets do not exceed the timeout: the kernel repeats a SYN
/// packet after 1 s and 3 s.
pub(crate) const ENDPOINT_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum size of the headers of a request or response, in KiB, and maximum number of headers. Envoy's defaults, 60 KiB
/// and 100 headers, are lower than those of many applications. The largest default of common servers is 1 MiB (Go).
pub(crate) const MAX_HEADERS_KB: u32 = 1024;
pub(crate) const MAX_HEADERS: u32 = 1000;

/// Maximum size of one header in KiB, if Envoy's HTTP/2 codec is nghttp2. Envoy accepts no larger value.
const MAX_HEADER_FIELD_KB: u32 = 256;

/// Key of the HTTP options in `typed_extension_protocol_options` of a cluster.
const HTTP_OPTIONS_KEY: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// A cluster whose endpoints come from ADS. Each cluster has an endpoints resource of its own, with the name of the
/// cluster. Envoy would never initialize the second of two clusters that share one.
pub(crate) fn eds(name: &str) -> Cluster {
    Cluster {
        eds_cluster_config: Some(EdsClusterConfig {
            eds_config: Some(ads()),
            service_name: name.into(),
        }),
        connect_timeout: duration(ENDPOINT_CONNECT_TIMEOUT),
        ..new_cluster(name, DiscoveryType::Eds)
    }
}

/// The source of resources that come from the ADS stream.
pub(crate) fn ads() -> ConfigSource {
    ConfigSource {
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        resource_api_version: ApiVersion::V3.into(),
        ..Default::default()
    }
}

/// A cluster with one static address.
pub(crate) fn single_address(name: &str, address: SocketAddr) -> Cluster {
    Cluster {
        load_assignment: Some(endpoints(name, [address])),
        ..new_cluster(name, DiscoveryType::Static)
    }
}

/// A cluster that connects to the original destination of the client's connection.
pub(crate) fn original_destination(name: &str) -> Cluster {
    Cluster {
        lb_policy: LbPolicy::ClusterProvided.into(),
        ..new_cluster(name, DiscoveryType::OriginalDst)
    }
}

/// The endpoints of a cluster, equal in weight and locality.
pub(crate) fn endpoints(
    cluster: &str,
    addresses: impl IntoIterator<Item = SocketAddr>,
) -> ClusterLoadAssignment {
    endpoints_with_metadata(cluster, addresses.into_iter().map(|address| (address, None)))
}

/// Like [`endpoints`]; each endpoint may have metadata.
pub(crate) fn endpoints_with_metadata(
    cluster: &str,
    addresses: impl IntoIterator<Item = (SocketAddr, Option<Metadata>)>,
) -> ClusterLoadAssignment {
    let endpoint = |(socket, metadata)| LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(Endpoint {
            address: Some(address(socket)),
            ..Default::default()
        })),
        metadata,
        ..Default::default()
    };
    let lb_endpoints: Vec<_> = addresses.into_iter().map(endpoint).collect();
    let locality = (!lb_endpoints.is_empty()).then(|| LocalityLbEndpoints {
        lb_endpoints,
        ..Default::default()
    });
    ClusterLoadAssignment {
        cluster_name: cluster.into(),
        endpoints: locality.into_iter().collect(),
        ..Default::default()
    }
}

/// Makes a cluster connect from the source address that the redirection rules exempt. Its connections then reach the
/// application and are not redirected to Envoy again.
pub(crate) fn with_exempt_source(cluster: Cluster, is_ipv6: bool) -> Cluster {
    let source: IpAddr = if is_ipv6 {
        Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6).into()
    } else {
        Ipv4Addr::new(127, 0, 0, 6).into()
    };
    let bind = BindConfig {
        source_address: Some(socket_address(source, 0)),
        ..Default::default()
    };
    Cluster {
        upstream_bind_config: Some(bind),
        ..cluster
    }
}

/// Enables TCP keepalive for the connections of a cluster.
pub(crate) fn with_keepalive(cluster: Cluster) -> Cluster {
    let options = UpstreamConnectionOptions {
        tcp_keepalive: Some(keepalive()),
        ..Default::default()
    };
    Cluster {
        upstream_connection_options: Some(options),
        ..cluster
    }
}

/// The HTTP version of connections to the endpoints of a cluster.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum HttpVersion {
    Http1,
    Http2,
    /// HTTP/2 to another sidecar. PINGs detect a sidecar that no longer responds; an application could reject them.
    Http2ToSidecar,
}

/// Limits of an HTTP connection. At a limit, Envoy opens another connection for further requests.
#[derive(Clone, Copy)]
pub(crate) struct ConnectionLimits {
    pub(crate) requests: u32,
    pub(crate) age: Duration,
}

/// Sets the HTTP version, the idle timeout and the limits of the connections of a cluster.
pub(crate) fn with_http_options(
    mut cluster: Cluster,
    version: HttpVersion,
    idle_timeout: Duration,
    limits: Option<ConnectionLimits>,
) -> Cluster {
    let protocol = match version {
        HttpVersion::Http1 => ProtocolConfig::HttpProtocolOptions(http1_options()),
        HttpVersion::Http2 => ProtocolConfig::Http2ProtocolOptions(http2_options()),
        HttpVersion::Http2ToSidecar => ProtocolConfig::Http2ProtocolOptions(Http2ProtocolOptions {
            connection_keepalive: Some(pings()),
            ..http2_options()
        }),
    };
    let options = HttpProtocolOptions {
        common_http_protocol_options: Some(CommonHttpOptions {
            idle_timeout: duration(idle_timeout),
            max_requests_per_connection: limits.and_then(|limits| number(limits.requests)),
            max_connection_duration: limits.and_then(|limits| duration(limits.age)),
            max_headers_count: number(MAX_HEADERS),
            max_response_headers_kb: number(MAX_HEADERS_KB),
            ..Default::default()
        }),
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
            protocol_config: Some(protocol),
        })),
        ..Default::default()
    };
    cluster
        .typed_extension_protocol_options
        .insert(HTTP_OPTIONS_KEY.into(), any(&options));
    cluster
}

/// Exports the statistics that Envoy keeps for each endpoint of a cluster. A gRPC call that fails with a status of the
/// server has the HTTP status 200, and is counted nowhere else; see `docs/design.md`, "Statistics of gRPC".
pub(crate) fn with_endpoint_statistics(cluster: Cluster) -> Cluster {
    let statistics = TrackClusterStats {
        per_endpoint_stats: true,
        ..Default::default()
    };
    Cluster {
        track_cluster_stats: Some(statistics),
        ..cluster
    }
}

/// Makes a cluster open a connection for each request, as the kubelet does. With `tls`, the connections use TLS, and
/// the server chooses HTTP/1.1 or HTTP/2.
pub(crate) fn with_single_requests(mut cluster: Cluster, tls: Option<TransportSocket>) -> Cluster {
    let http1 = Http1ProtocolOptions::default();
    let protocol = if tls.is_some() {
        UpstreamProtocolOptions::AutoConfig(AutoHttpConfig {
            http_protocol_options: Some(http1),
            http2_protocol_options: Some(Http2ProtocolOptions::default()),
            ..Default::default()
        })
    } else {
        UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
            protocol_config: Some(ProtocolConfig::HttpProtocolOptions(http1)),
        })
    };
    let options = HttpProtocolOptions {
        common_http_protocol_options: Some(CommonHttpOptions {
            max_requests_per_connection: number(1),
            ..Default::default()
        }),
        upstream_protocol_options: Some(protocol),
        ..Default::default()
    };
    cluster
        .typed_extension_protocol_options
        .insert(HTTP_OPTIONS_KEY.into(), any(&options));
    Cluster {
        transport_socket: tls,
        ..cluster
    }
}

/// HTTP/1 options. Envoy drops trailers by default.
pub(crate) fn http1_options() -> Http1ProtocolOptions {
    Http1ProtocolOptions {
        enable_trailers: true,
        ..Default::default()
    }
}

/// HTTP/2 options. CONNECT is allowed because a WebSocket upgrade is a CONNECT request on HTTP/2.
pub(crate) fn http2_options() -> Http2ProtocolOptions {
    Http2ProtocolOptions {
        allow_connect: true,
        // The requests of all clients of a Pod share a connection between sidecars. An invalid request must not end
        // this connection.
        override_stream_error_on_invalid_http_message: boolean(true),
        max_header_field_size_kb: number(MAX_HEADER_FIELD_KB),
        ..Default::default()
    }
}

/// PINGs of HTTP/2, to detect a node that disappears during a request. The kernel sends no keepalive probes while sent
/// data is unacknowledged, and gives up after about 15 minutes. Envoy lengthens the interval by up to 15 % at random, so
/// a node is noticed after 89 s at most.
fn pings() -> KeepaliveSettings {
    KeepaliveSettings {
        interval: duration(Duration::from_mins(1)),
        timeout: duration(Duration::from_secs(20)),
        ..Default::default()
    }
}

/// A cluster with the options that all clusters share.
fn new_cluster(name: &str, discovery_type: DiscoveryType) -> Cluster {
    let stat_name = names::stat_name(name);
    Cluster {
        name: name.into(),
        // Statistics have the name of the cluster if this field is empty.
        alt_stat_name: if stat_name == name {
            String::new()
        } else {
            stat_name
        },
        connect_timeout: duration(CONNECT_TIMEOUT),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(discovery_type.into())),
        circuit_breakers: Some(unlimited_circuit_breakers()),
        ..Default::default()
    }
}

/// Circuit breakers without limits. With Envoy's default limits, such as 1024 requests at a time, requests would get
/// 503 responses although the service can handle the load.
fn unlimited_circuit_breakers() -> CircuitBreakers {
    let thresholds = Thresholds {
        priority: RoutingPriority::Default.into(),
        max_connections: number(u32::MAX),
        max_pending_requests: number(u32::MAX),
        max_requests: number(u32::MAX),
        max_retries: number(u32::MAX),
        ..Default::default()
    };
    CircuitBreakers {
        thresholds: vec![thresholds],
        ..Default::default()
    }
}
