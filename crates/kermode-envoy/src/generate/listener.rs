//! What all listeners have in common, and the filter chain for opaque bytes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::TrafficDirection;
use envoy_types::pb::envoy::config::listener::v3::{Filter, FilterChain, Listener};
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::ClusterSpecifier;
use envoy_types::pb::google::protobuf::{Value, value::Kind};
use kermode_model::Tags;
use prost::Message;

use crate::proto::{address, boolean, duration, network_filter, number};
use crate::{Resource, ResourceKind, names};

/// How long a connection may carry nothing (BEHAVIOUR section 6.2).
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_hours(2);

/// A listener without filter chains.
pub(crate) fn new(name: &str, socket: SocketAddr, direction: TrafficDirection) -> Listener {
    Listener {
        name: name.into(),
        address: Some(address(socket)),
        traffic_direction: direction.into(),
        // One accept queue, so that replacing an inbound listener cannot strand a connection in a worker's own.
        enable_reuse_port: if direction == TrafficDirection::Inbound {
            boolean(false)
        } else {
            None
        },
        ..Default::default()
    }
}

/// A listener that redirected connections are handed to by their original destination.
pub(crate) fn unbound(listener: Listener) -> Listener {
    Listener {
        bind_to_port: boolean(false),
        ..listener
    }
}

/// A chain for every connection.
pub(crate) fn chain(filters: Vec<Filter>) -> FilterChain {
    FilterChain {
        filters,
        ..Default::default()
    }
}

/// Hands bytes to a cluster. `attempts` is how many connections are tried, each to an endpoint of the balancer's
/// choice, before the client's is closed.
pub(crate) fn tcp_proxy(stat_prefix: &str, cluster: &str, attempts: u32) -> Filter {
    let proxy = TcpProxy {
        stat_prefix: names::stat(stat_prefix),
        idle_timeout: duration(IDLE_TIMEOUT),
        max_connect_attempts: if attempts > 1 { number(attempts) } else { None },
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.into())),
        ..Default::default()
    };
    network_filter("envoy.filters.network.tcp_proxy", &proxy)
}

/// Encodes a listener.
pub(crate) fn encode(listener: &Listener) -> Resource {
    Resource::encode(ResourceKind::Listener, &listener.name, listener)
}

/// Encodes a listener with the tags of its inbound as metadata `io.kuma.tags`.
///
/// Envoy's own types hold metadata in `HashMap`s, whose order differs from run to run. Concatenated protobuf
/// messages merge, so the metadata is encoded in order and appended.
pub(crate) fn encode_tagged(listener: &Listener, tags: &Tags) -> Resource {
    let text = |value: &str| Value {
        kind: Some(Kind::StringValue(value.into())),
    };
    let fields = tags
        .iter()
        .map(|(key, value)| (key.to_string(), text(value)))
        .collect();
    let filter_metadata = BTreeMap::from([("io.kuma.tags".to_owned(), OrderedStruct { fields })]);
    let tail = ListenerTail {
        metadata: Some(OrderedMetadata { filter_metadata }),
    };
    let mut body = listener.encode_to_vec();
    body.extend(tail.encode_to_vec());
    Resource::new(ResourceKind::Listener, &listener.name, body)
}

/// The field `metadata` of `envoy.config.listener.v3.Listener`, alone.
#[derive(Clone, PartialEq, Message)]
struct ListenerTail {
    #[prost(message, optional, tag = "6")]
    metadata: Option<OrderedMetadata>,
}

/// `envoy.config.core.v3.Metadata` in order.
#[derive(Clone, PartialEq, Message)]
struct OrderedMetadata {
    #[prost(btree_map = "string, message", tag = "1")]
    filter_metadata: BTreeMap<String, OrderedStruct>,
}

/// `google.protobuf.Struct` in order.
#[derive(Clone, PartialEq, Message)]
struct OrderedStruct {
    #[prost(btree_map = "string, message", tag = "1")]
    fields: BTreeMap<String, Value>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn appended_tags_are_read_back_as_the_listeners_metadata() {
        let tags = Tags::from([("b".into(), "2".into()), ("a".into(), "1".into())]);
        let listener = new("l", ([10, 0, 0, 1], 80).into(), TrafficDirection::Inbound);
        let decoded = Listener::decode(encode_tagged(&listener, &tags).body).expect("a valid message");
        let metadata = decoded.metadata.clone().expect("metadata").filter_metadata;
        let fields = &metadata.get("io.kuma.tags").expect("our tags").fields;
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
