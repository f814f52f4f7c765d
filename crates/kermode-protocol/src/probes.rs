//! Probes that Envoy delegates to the agent, because Envoy cannot answer an HTTP request with the result of a TCP
//! connection or of a health RPC. Envoy forwards the kubelet's GET with the path of a method and with the headers of
//! this module. The response has status 200 if the probe succeeds and 503 with a reason otherwise.
//!
//! The methods share the unix socket with the gRPC services, but are plain HTTP.

/// Name of the service in the paths of its methods.
pub const SERVICE_NAME: &str = "kermode.probe.v1.ProbeService";

/// Path of the TCP probe. It succeeds if the application accepts a connection.
pub const TCP_PATH: &str = "/kermode.probe.v1.ProbeService/Tcp";

/// Path of the gRPC probe. It succeeds if the application's health service reports SERVING.
pub const GRPC_PATH: &str = "/kermode.probe.v1.ProbeService/Grpc";

/// Header with the application's address, `<ip>:<port>`.
pub const ADDRESS_HEADER: &str = "x-kermode-probe-address";

/// Header with the name of the gRPC service whose health is requested, percent-encoded; empty for the whole server.
pub const GRPC_SERVICE_HEADER: &str = "x-kermode-probe-grpc-service";
