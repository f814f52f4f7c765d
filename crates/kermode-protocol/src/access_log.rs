//! Messages of Envoy's access log service (ALS), limited to the fields that the agent reads: the addresses of TCP
//! connections.
//!
//! Field numbers are those of Envoy's `envoy/service/accesslog/v3/als.proto`,
//! `envoy/data/accesslog/v3/accesslog.proto` and `envoy/config/core/v3/address.proto`.

use std::net::SocketAddr;

/// Name of the gRPC service, package included.
pub const SERVICE_NAME: &str = "envoy.service.accesslog.v3.AccessLogService";

/// Path of the client-streaming method: [`StreamAccessLogsMessage`]s to [`StreamAccessLogsResponse`].
pub const STREAM_ACCESS_LOGS: &str = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs";

/// Name of the log of connections that Envoy closes, because their destination port is closed
/// ([`crate::closed_ports`]).
pub const CLOSED_CONNECTIONS_LOG: &str = "kermode:closed_connections";

/// `envoy.service.accesslog.v3.StreamAccessLogsMessage`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StreamAccessLogsMessage {
    /// Entries about TCP connections.
    #[prost(message, optional, tag = "3")]
    pub tcp_logs: Option<TcpLogEntries>,
}

/// `envoy.service.accesslog.v3.StreamAccessLogsResponse`. Envoy never reads a response.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct StreamAccessLogsResponse {}

/// `envoy.service.accesslog.v3.StreamAccessLogsMessage.TCPAccessLogEntries`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TcpLogEntries {
    /// The entries.
    #[prost(message, repeated, tag = "1")]
    pub log_entry: Vec<TcpLogEntry>,
}

/// `envoy.data.accesslog.v3.TCPAccessLogEntry`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TcpLogEntry {
    /// Properties of the connection.
    #[prost(message, optional, tag = "1")]
    pub common_properties: Option<CommonProperties>,
}

/// `envoy.data.accesslog.v3.AccessLogCommon`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CommonProperties {
    /// Address of the client.
    #[prost(message, optional, tag = "2")]
    pub downstream_remote_address: Option<Address>,
    /// Destination of the connection: the original destination if the connection was redirected.
    #[prost(message, optional, tag = "3")]
    pub downstream_local_address: Option<Address>,
}

/// `envoy.config.core.v3.Address`, limited to addresses of sockets.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Address {
    /// Address of the socket.
    #[prost(message, optional, tag = "1")]
    pub socket_address: Option<SocketAddressMessage>,
}

/// `envoy.config.core.v3.SocketAddress`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SocketAddressMessage {
    /// IP.
    #[prost(string, tag = "2")]
    pub address: String,
    /// Port.
    #[prost(uint32, tag = "3")]
    pub port_value: u32,
}

impl Address {
    /// Returns the IP and the port; `None` if the address is not that of a TCP socket.
    pub fn to_socket_address(&self) -> Option<SocketAddr> {
        let socket = self.socket_address.as_ref()?;
        let ip = socket.address.parse().ok()?;
        Some(SocketAddr::new(ip, socket.port_value.try_into().ok()?))
    }
}
