//! Constructors for the kinds of clusters, with the options that all clusters share.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::circuit_breakers::Thresholds;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, DiscoveryType, EdsClusterConfig, LbPolicy,
};
use envoy_types::pb::envoy::config::cluster::v3::{CircuitBreakers, Cluster};
use envoy_types::pb::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use envoy_types::pb::envoy::config::core::v3::{
    AggregatedConfigSource, ApiVersion, BindConfig, ConfigSource, Http1ProtocolOptions, Http2ProtocolOptions,
    HttpProtocolOptions as CommonHttpOptions, RoutingPriority,
};
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints,
};
use envoy_types::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::explicit_http_config::ProtocolConfig;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::{
    ExplicitHttpConfig, UpstreamProtocolOptions,
};

use crate::names;
use crate::proto::{address, any, duration, number, socket_address};

/// Timeout of a connection attempt (docs/reference/envoy.md#timeouts).
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// A cluster with endpoints from ADS under the cluster's own name. If two clusters shared one name for their endpoints,
/// Envoy would leave the second one waiting for endpoints.
pub(crate) fn discovered(name: &str) -> Cluster {
    let ads = ConfigSource {
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        resource_api_version: ApiVersion::V3.into(),
        ..Default::default()
    };
    Cluster {
        eds_cluster_config: Some(EdsClusterConfig {
            eds_config: Some(ads),
            service_name: name.into(),
        }),
        ..of_type(name, DiscoveryType::Eds)
    }
}

/// A cluster of one static address.
pub(crate) fn fixed(name: &str, endpoint: SocketAddr) -> Cluster {
    Cluster {
        load_assignment: Some(endpoints(name, [endpoint])),
        ..of_type(name, DiscoveryType::Static)
    }
}

/// A cluster that connects to the original destination of the client's connection.
pub(crate) fn original_destination(name: &str) -> Cluster {
    Cluster {
        lb_policy: LbPolicy::ClusterProvided.into(),
        ..of_type(name, DiscoveryType::OriginalDst)
    }
}

/// The endpoints of a cluster, equal in weight and locality.
pub(crate) fn endpoints(
    cluster: &str,
    addresses: impl IntoIterator<Item = SocketAddr>,
) -> ClusterLoadAssignment {
    let endpoint = |socket| LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(Endpoint {
            address: Some(address(socket)),
            ..Default::default()
        })),
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

/// Makes a cluster connect from the source address that the redirection rules exempt, so that its connections reach the
/// application instead of Envoy.
pub(crate) fn from_proxy_address(cluster: Cluster, ipv6: bool) -> Cluster {
    let source: IpAddr = if ipv6 {
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

/// The HTTP version spoken to a cluster's endpoints.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum HttpVersion {
    One,
    Two,
}

/// Sets the HTTP version and the idle timeout of a cluster.
pub(crate) fn with_http(mut cluster: Cluster, version: HttpVersion, idle: Duration) -> Cluster {
    let protocol = match version {
        HttpVersion::One => ProtocolConfig::HttpProtocolOptions(Http1ProtocolOptions::default()),
        HttpVersion::Two => ProtocolConfig::Http2ProtocolOptions(http2()),
    };
    let options = HttpProtocolOptions {
        common_http_protocol_options: Some(CommonHttpOptions {
            idle_timeout: duration(idle),
            ..Default::default()
        }),
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
            protocol_config: Some(protocol),
        })),
        ..Default::default()
    };
    cluster
        .typed_extension_protocol_options
        .insert(HTTP_OPTIONS.into(), any(&options));
    cluster
}

/// HTTP/2 options between sidecars. CONNECT is allowed because a WebSocket upgrade is a CONNECT request on HTTP/2.
pub(crate) fn http2() -> Http2ProtocolOptions {
    Http2ProtocolOptions {
        allow_connect: true,
        ..Default::default()
    }
}

fn of_type(name: &str, kind: DiscoveryType) -> Cluster {
    let stat = names::stat(name);
    Cluster {
        name: name.into(),
        alt_stat_name: if stat == name { String::new() } else { stat },
        connect_timeout: duration(CONNECT_TIMEOUT),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(kind.into())),
        circuit_breakers: Some(unlimited()),
        ..Default::default()
    }
}

/// Circuit breakers without limits: Envoy's default of 1024 causes 503 responses under load that the service can
/// handle.
fn unlimited() -> CircuitBreakers {
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
