//! Small Envoy resources, and a backend to which Envoy connects.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::Ipv4Addr;

use envoy_types::pb::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType, EdsClusterConfig};
use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use envoy_types::pb::envoy::config::core::v3::data_source::Specifier as Source;
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::core::v3::{
    Address, AggregatedConfigSource, ApiVersion, ConfigSource, DataSource, SocketAddress, address,
};
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::endpoint::v3::{ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints};
use envoy_types::pb::envoy::config::listener::v3::filter::ConfigType;
use envoy_types::pb::envoy::config::listener::v3::{Filter, FilterChain, Listener};
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::{
    DirectResponseAction, Route, RouteConfiguration, RouteMatch, VirtualHost,
};
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, Rds, http_filter,
};
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::ClusterSpecifier;
use envoy_types::pb::google::protobuf::{Any, Duration};
use kermode_envoy::{Resource, ResourceKind};
use prost::Message;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A TCP server that sends its name over every connection.
pub(crate) struct Backend {
    pub(crate) port: u16,
    task: JoinHandle<()>,
}

impl Backend {
    pub(crate) async fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.write_all(name.as_bytes()).await;
            }
        });
        Self { port, task }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Returns a port that no process listens on.
pub(crate) fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("an address").port()
}

/// Encodes a message as a resource. The version is a hash of its content.
pub(crate) fn encode(kind: ResourceKind, name: &str, message: &impl Message) -> Resource {
    let body = message.encode_to_vec();
    let mut hasher = DefaultHasher::new();
    body.hash(&mut hasher);
    let version = format!("{:x}", hasher.finish());
    Resource {
        kind,
        name: name.into(),
        version: version.into(),
        body: body.into(),
        service: None,
        on_demand: None,
    }
}

/// Returns the config source of resources that Envoy gets by ADS.
fn ads_config_source() -> ConfigSource {
    ConfigSource {
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        resource_api_version: ApiVersion::V3.into(),
        // The timeout is disabled, so that a resource that is not sent fails the test.
        initial_fetch_timeout: Some(Duration::default()),
        ..Default::default()
    }
}

fn mk_any(type_name: &str, message: &impl Message) -> Any {
    Any {
        type_url: format!("type.googleapis.com/{type_name}"),
        value: message.encode_to_vec(),
    }
}

fn loopback(port: u16) -> Address {
    let socket = SocketAddress {
        address: "127.0.0.1".into(),
        port_specifier: Some(PortSpecifier::PortValue(port.into())),
        ..Default::default()
    };
    Address {
        address: Some(address::Address::SocketAddress(socket)),
    }
}

/// Returns an EDS cluster. Clusters with different revisions differ in a field, the connect timeout.
pub(crate) fn cluster(name: &str, revision: u32) -> Resource {
    let cluster = Cluster {
        name: name.into(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
        eds_cluster_config: Some(EdsClusterConfig {
            eds_config: Some(ads_config_source()),
            ..Default::default()
        }),
        connect_timeout: Some(Duration {
            seconds: revision.into(),
            nanos: 0,
        }),
        ..Default::default()
    };
    encode(ResourceKind::Cluster, name, &cluster)
}

/// Returns an invalid cluster: EDS without a source of endpoints. Envoy rejects it.
pub(crate) fn broken_cluster(name: &str) -> Resource {
    let cluster = Cluster {
        name: name.into(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
        ..Default::default()
    };
    encode(ResourceKind::Cluster, name, &cluster)
}

/// Returns the endpoints of a cluster: these ports on loopback.
pub(crate) fn endpoints(name: &str, ports: &[u16]) -> Resource {
    let endpoint = |port: &u16| LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(Endpoint {
            address: Some(loopback(*port)),
            ..Default::default()
        })),
        ..Default::default()
    };
    let lb_endpoints = ports.iter().map(endpoint).collect();
    let assignment = ClusterLoadAssignment {
        cluster_name: name.into(),
        endpoints: vec![LocalityLbEndpoints {
            lb_endpoints,
            ..Default::default()
        }],
        ..Default::default()
    };
    encode(ResourceKind::Endpoints, name, &assignment)
}

fn listener(name: &str, port: u16, filter: &str, config: Any) -> Resource {
    let filter = Filter {
        name: filter.into(),
        config_type: Some(ConfigType::TypedConfig(config)),
    };
    let listener = Listener {
        name: name.into(),
        address: Some(loopback(port)),
        filter_chains: vec![FilterChain {
            filters: vec![filter],
            ..Default::default()
        }],
        ..Default::default()
    };
    encode(ResourceKind::Listener, name, &listener)
}

/// Returns a listener that forwards connections to a cluster.
pub(crate) fn tcp_listener(name: &str, port: u16, cluster: &str) -> Resource {
    let proxy = TcpProxy {
        stat_prefix: name.into(),
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.into())),
        ..Default::default()
    };
    let config = mk_any("envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", &proxy);
    listener(name, port, "envoy.filters.network.tcp_proxy", config)
}

/// Returns an HTTP listener that requests its routes by the name `route`.
pub(crate) fn http_listener(name: &str, port: u16, route: &str) -> Resource {
    let router = mk_any(
        "envoy.extensions.filters.http.router.v3.Router",
        &Router::default(),
    );
    let manager = HttpConnectionManager {
        stat_prefix: name.into(),
        route_specifier: Some(RouteSpecifier::Rds(Rds {
            config_source: Some(ads_config_source()),
            route_config_name: route.into(),
        })),
        http_filters: vec![HttpFilter {
            name: "envoy.filters.http.router".into(),
            config_type: Some(http_filter::ConfigType::TypedConfig(router)),
            ..Default::default()
        }],
        ..Default::default()
    };
    let config = mk_any(
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        &manager,
    );
    listener(
        name,
        port,
        "envoy.filters.network.http_connection_manager",
        config,
    )
}

/// Returns a route that responds to every request with this text.
pub(crate) fn route(name: &str, text: &str) -> Resource {
    let body = DataSource {
        specifier: Some(Source::InlineString(text.into())),
        ..Default::default()
    };
    let response = DirectResponseAction {
        status: 200,
        body: Some(body),
        ..Default::default()
    };
    let route = Route {
        r#match: Some(RouteMatch {
            path_specifier: Some(PathSpecifier::Prefix("/".into())),
            ..Default::default()
        }),
        action: Some(Action::DirectResponse(response)),
        ..Default::default()
    };
    let host = VirtualHost {
        name: name.into(),
        domains: vec!["*".into()],
        routes: vec![route],
        ..Default::default()
    };
    let configuration = RouteConfiguration {
        name: name.into(),
        virtual_hosts: vec![host],
        ..Default::default()
    };
    encode(ResourceKind::Route, name, &configuration)
}
