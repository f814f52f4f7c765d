//! Constructors for common parts of Envoy messages.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::{
    Address, SocketAddress, TransportSocket, address, socket_address, transport_socket,
};
use envoy_types::pb::envoy::config::listener::v3::{Filter, ListenerFilter, filter, listener_filter};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpFilter, http_filter,
};
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use envoy_types::pb::google::protobuf::{self, Any, BoolValue, UInt32Value};
use prost::{Message, Name};

/// Packs a message into an `Any` for an extension point.
pub(crate) fn any<M: Message + Name>(message: &M) -> Any {
    Any {
        type_url: M::type_url(),
        value: message.encode_to_vec(),
    }
}

#[allow(clippy::unnecessary_wraps, reason = "message fields are `Option`s")]
pub(crate) fn duration(duration: Duration) -> Option<protobuf::Duration> {
    // All durations are constants of at most a few hours, so the conversion cannot fail.
    let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    let nanos = i32::try_from(duration.subsec_nanos()).unwrap_or_default();
    Some(protobuf::Duration { seconds, nanos })
}

#[allow(clippy::unnecessary_wraps, reason = "message fields are `Option`s")]
pub(crate) fn boolean(value: bool) -> Option<BoolValue> {
    Some(BoolValue { value })
}

#[allow(clippy::unnecessary_wraps, reason = "message fields are `Option`s")]
pub(crate) fn number(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

pub(crate) fn socket_address(ip: IpAddr, port: u16) -> SocketAddress {
    SocketAddress {
        address: ip.to_string(),
        port_specifier: Some(socket_address::PortSpecifier::PortValue(u32::from(port))),
        ..Default::default()
    }
}

pub(crate) fn address(socket: SocketAddr) -> Address {
    Address {
        address: Some(address::Address::SocketAddress(socket_address(
            socket.ip(),
            socket.port(),
        ))),
    }
}

pub(crate) fn network_filter<M: Message + Name>(name: &str, config: &M) -> Filter {
    Filter {
        name: name.into(),
        config_type: Some(filter::ConfigType::TypedConfig(any(config))),
    }
}

pub(crate) fn http_filter<M: Message + Name>(name: &str, config: &M) -> HttpFilter {
    let config_type = Some(http_filter::ConfigType::TypedConfig(any(config)));
    HttpFilter {
        name: name.into(),
        config_type,
        ..Default::default()
    }
}

pub(crate) fn listener_filter<M: Message + Name>(name: &str, config: &M) -> ListenerFilter {
    let config_type = Some(listener_filter::ConfigType::TypedConfig(any(config)));
    ListenerFilter {
        name: name.into(),
        config_type,
        ..Default::default()
    }
}

pub(crate) fn transport_socket<M: Message + Name>(name: &str, config: &M) -> TransportSocket {
    TransportSocket {
        name: name.into(),
        config_type: Some(transport_socket::ConfigType::TypedConfig(any(config))),
    }
}

pub(crate) fn exact(text: impl Into<String>) -> StringMatcher {
    StringMatcher {
        match_pattern: Some(MatchPattern::Exact(text.into())),
        ..Default::default()
    }
}

pub(crate) fn prefix(text: impl Into<String>) -> StringMatcher {
    StringMatcher {
        match_pattern: Some(MatchPattern::Prefix(text.into())),
        ..Default::default()
    }
}
