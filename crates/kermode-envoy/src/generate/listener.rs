//! Constructors for listeners, filter chains and TCP proxy filters.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use envoy_types::pb::envoy::config::accesslog::v3::{AccessLog, access_log};
use envoy_types::pb::envoy::config::core::v3::grpc_service::{EnvoyGrpc, TargetSpecifier};
use envoy_types::pb::envoy::config::core::v3::{ApiVersion, GrpcService, TcpKeepalive, TrafficDirection};
use envoy_types::pb::envoy::config::listener::v3::{Filter, FilterChain, Listener};
use envoy_types::pb::envoy::extensions::access_loggers::grpc::v3::{
    CommonGrpcAccessLogConfig, TcpGrpcAccessLogConfig,
};
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::{
    ClusterSpecifier, OnDemand,
};
use envoy_types::pb::envoy::r#type::v3::HashPolicy;
use envoy_types::pb::envoy::r#type::v3::hash_policy::{PolicySpecifier, SourceIp};
use envoy_types::pb::google::protobuf::{Value, value::Kind};
use kermode_model::Tags;
use kermode_protocol::bootstrap::AGENT_CLUSTER;
use prost::Message;

use crate::proto::{address, any, boolean, duration, network_filter, number};
use crate::{Resource, ResourceKind, names};

/// Idle timeout of an HTTP connection without a stream (docs/reference/envoy.md#timeouts).
pub(crate) const HTTP_IDLE_TIMEOUT: Duration = Duration::from_hours(2);
/// Value of the idle timeout of TCP connections that disables it. An application may keep a connection open that it
/// uses after hours; [`keepalive`] detects disappeared peers (docs/design.md#idle-connections).
const NO_IDLE_TIMEOUT: Duration = Duration::ZERO;

/// Interval at which Envoy sends buffered entries of an access log. Entries are not buffered, so the timer should run
/// seldom.
const LOG_FLUSH_INTERVAL: Duration = Duration::from_hours(1);

/// A listener without filter chains.
pub(crate) fn new(name: &str, socket: SocketAddr, direction: TrafficDirection) -> Listener {
    let is_inbound = direction == TrafficDirection::Inbound;
    Listener {
        name: name.into(),
        address: Some(address(socket)),
        traffic_direction: direction.into(),
        // Without `SO_REUSEPORT`, all workers of Envoy share one accept queue. With a queue for each worker, the
        // connections in the queues would be lost when the listener is replaced.
        enable_reuse_port: if is_inbound { boolean(false) } else { None },
        // The clients of outbound listeners are in the same Pod.
        tcp_keepalive: is_inbound.then(keepalive),
        ..Default::default()
    }
}

/// Makes a listener not bind its address. Envoy hands a redirected connection to the listener whose address is the
/// original destination of the connection. The connection has the socket options of the listener that is bound.
pub(crate) fn without_bind(listener: Listener) -> Listener {
    Listener {
        bind_to_port: boolean(false),
        tcp_keepalive: None,
        ..listener
    }
}

/// TCP keepalive, to detect nodes that disappear without closing their connections. It also keeps idle connections in
/// the tables of firewalls and of address translation, which drop entries after some minutes.
pub(crate) fn keepalive() -> TcpKeepalive {
    TcpKeepalive {
        keepalive_time: number(60),
        keepalive_interval: number(10),
        keepalive_probes: number(3),
    }
}

/// A filter chain that matches all connections.
pub(crate) fn filter_chain(filters: Vec<Filter>) -> FilterChain {
    FilterChain {
        filters,
        ..Default::default()
    }
}

/// A filter that forwards bytes to a cluster. `connect_attempts` is the maximum number of connection attempts. The load
/// balancer chooses an endpoint for each attempt.
pub(crate) fn tcp_proxy(stat_prefix: &str, cluster: &str, connect_attempts: u32) -> Filter {
    let proxy = new_tcp_proxy(stat_prefix, cluster, connect_attempts);
    network_filter("envoy.filters.network.tcp_proxy", &proxy)
}

/// Like [`tcp_proxy`], for a cluster that balances by hash: the address of the client chooses the endpoint.
pub(crate) fn tcp_proxy_by_client(stat_prefix: &str, cluster: &str, connect_attempts: u32) -> Filter {
    let proxy = TcpProxy {
        hash_policy: vec![source_ip()],
        ..new_tcp_proxy(stat_prefix, cluster, connect_attempts)
    };
    network_filter("envoy.filters.network.tcp_proxy", &proxy)
}

fn source_ip() -> HashPolicy {
    HashPolicy {
        policy_specifier: Some(PolicySpecifier::SourceIp(SourceIp {})),
    }
}

/// Like [`tcp_proxy`], for a cluster whose name the filter state `envoy.tcp_proxy.cluster` contains. Envoy requests a
/// missing cluster from the control plane.
pub(crate) fn tcp_proxy_on_demand(stat_prefix: &str, discovery: OnDemand) -> Filter {
    let proxy = TcpProxy {
        on_demand: Some(discovery),
        // No cluster has this name. Envoy requires the field.
        ..new_tcp_proxy(stat_prefix, stat_prefix, 1)
    };
    network_filter("envoy.filters.network.tcp_proxy", &proxy)
}

/// Like [`tcp_proxy_on_demand`], with several connection attempts. If the cluster balances by hash, the address of the
/// client chooses the endpoint.
pub(crate) fn tcp_proxy_on_demand_by_client(
    stat_prefix: &str,
    connect_attempts: u32,
    discovery: OnDemand,
) -> Filter {
    let proxy = TcpProxy {
        on_demand: Some(discovery),
        hash_policy: vec![source_ip()],
        ..new_tcp_proxy(stat_prefix, stat_prefix, connect_attempts)
    };
    network_filter("envoy.filters.network.tcp_proxy", &proxy)
}

/// Like [`tcp_proxy`]. Envoy sends an entry to the agent after each connection
/// (docs/reference/envoy.md#passthrough).
pub(crate) fn tcp_proxy_with_log(stat_prefix: &str, cluster: &str, log_name: &str) -> Filter {
    let proxy = TcpProxy {
        access_log: vec![agent_log(log_name)],
        ..new_tcp_proxy(stat_prefix, cluster, 1)
    };
    network_filter("envoy.filters.network.tcp_proxy", &proxy)
}

/// An access log that Envoy sends to the agent, entry by entry.
fn agent_log(name: &str) -> AccessLog {
    let agent = EnvoyGrpc {
        cluster_name: AGENT_CLUSTER.into(),
        ..Default::default()
    };
    let config = CommonGrpcAccessLogConfig {
        log_name: name.into(),
        grpc_service: Some(GrpcService {
            target_specifier: Some(TargetSpecifier::EnvoyGrpc(agent)),
            ..Default::default()
        }),
        transport_api_version: ApiVersion::V3.into(),
        // Envoy sends each entry at once.
        buffer_size_bytes: number(0),
        // The timer that sends buffered entries runs even if there are none.
        buffer_flush_interval: duration(LOG_FLUSH_INTERVAL),
        ..Default::default()
    };
    let config = TcpGrpcAccessLogConfig {
        common_config: Some(config),
    };
    AccessLog {
        name: "envoy.access_loggers.tcp_grpc".into(),
        config_type: Some(access_log::ConfigType::TypedConfig(any(&config))),
        ..Default::default()
    }
}

fn new_tcp_proxy(stat_prefix: &str, cluster: &str, connect_attempts: u32) -> TcpProxy {
    TcpProxy {
        stat_prefix: names::stat_name(stat_prefix),
        idle_timeout: duration(NO_IDLE_TIMEOUT),
        max_connect_attempts: if connect_attempts > 1 {
            number(connect_attempts)
        } else {
            None
        },
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.into())),
        ..Default::default()
    }
}

/// Encodes a listener.
pub(crate) fn encode(listener: &Listener) -> Resource {
    Resource::encode(ResourceKind::Listener, &listener.name, listener)
}

/// Encodes a listener with the tags of its inbound as metadata `io.kuma.tags`.
///
/// The types of `envoy-types` hold metadata in `HashMap`s, whose order differs from run to run. Therefore, the metadata
/// is encoded separately, in sorted order, and appended: a protobuf decoder merges concatenated messages.
pub(crate) fn encode_with_tags(listener: &Listener, tags: &Tags) -> Resource {
    let string_value = |value: &str| Value {
        kind: Some(Kind::StringValue(value.into())),
    };
    let fields = tags
        .iter()
        .map(|(key, value)| (key.to_string(), string_value(value)))
        .collect();
    let filter_metadata = BTreeMap::from([("io.kuma.tags".to_owned(), OrderedStruct { fields })]);
    let listener_metadata = ListenerMetadata {
        metadata: Some(OrderedMetadata { filter_metadata }),
    };
    let mut body = listener.encode_to_vec();
    body.extend(listener_metadata.encode_to_vec());
    Resource::new(ResourceKind::Listener, &listener.name, body)
}

/// `envoy.config.listener.v3.Listener` with only the field `metadata`.
#[derive(Clone, PartialEq, Message)]
struct ListenerMetadata {
    #[prost(message, optional, tag = "6")]
    metadata: Option<OrderedMetadata>,
}

/// `envoy.config.core.v3.Metadata` with ordered keys.
#[derive(Clone, PartialEq, Message)]
struct OrderedMetadata {
    #[prost(btree_map = "string, message", tag = "1")]
    filter_metadata: BTreeMap<String, OrderedStruct>,
}

/// `google.protobuf.Struct` with ordered keys.
#[derive(Clone, PartialEq, Message)]
struct OrderedStruct {
    #[prost(btree_map = "string, message", tag = "1")]
    fields: BTreeMap<String, Value>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn appended_tags_are_decoded_as_metadata_of_the_listener() {
        let tags = Tags::from([("b".into(), "2".into()), ("a".into(), "1".into())]);
        let listener = new("l", ([10, 0, 0, 1], 80).into(), TrafficDirection::Inbound);
        let decoded = Listener::decode(encode_with_tags(&listener, &tags).body).expect("a valid message");
        let metadata = decoded.metadata.clone().expect("metadata").filter_metadata;
        let fields = &metadata.get("io.kuma.tags").expect("the tags").fields;
        assert_eq!(
            fields.get("a").and_then(|value| value.kind.clone()),
            Some(Kind::StringValue("1".into()))
        );
        assert_eq!(fields.len(), 2);
        assert_eq!(
            Listener {
                metadata: None,
                ..decoded
            },
            listener
        );
    }
}
