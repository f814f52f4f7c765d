//! Metrics of a sidecar, which Envoy requests from the agent. Envoy forwards the GET of a collector such as Prometheus
//! with the path of this module. The response has the metrics of Envoy and of the agent in Prometheus' text format.
//!
//! The method shares the unix socket with the gRPC services, but is plain HTTP.

/// Name of the service in the path of its method.
pub const SERVICE_NAME: &str = "kermode.metrics.v1.MetricsService";

/// Path of the method.
pub const SCRAPE_PATH: &str = "/kermode.metrics.v1.MetricsService/Scrape";
