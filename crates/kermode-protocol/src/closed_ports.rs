//! RPC by which a sidecar reports that Envoy closed a connection to a closed port.
//!
//! A closed port is a port of the Pod without an inbound, in a mesh that does not pass connections to such ports
//! through (`docs/design.md#strict-covers-every-port`). One unary call for each port, authenticated as for ADS.

/// Name of the gRPC service, package included.
pub const SERVICE_NAME: &str = "kermode.port.v1.ClosedPortService";

/// Path of the unary method: [`ReportClosedPortRequest`] to [`ReportClosedPortResponse`].
pub const REPORT_CLOSED_PORT: &str = "/kermode.port.v1.ClosedPortService/ReportClosedPort";

/// Reports that Envoy closed a connection. The token identifies the proxy.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct ReportClosedPortRequest {
    /// Port that the client connected to.
    #[prost(uint32, tag = "1")]
    pub port: u32,
}

/// Response to a report.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct ReportClosedPortResponse {
    /// Whether the port is closed according to the control plane. If not, Envoy closed the connection because Envoy
    /// does not have the current configuration yet.
    #[prost(bool, tag = "1")]
    pub is_closed: bool,
}
