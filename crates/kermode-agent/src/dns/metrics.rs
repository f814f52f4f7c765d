//! Metrics of the DNS server.

use std::time::Instant;

use hickory_proto::op::ResponseCode;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::forward::Transport;

/// Metrics of the DNS server. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    responses: Family<ResponseLabels, Counter>,
    duration: Family<OriginLabel, Histogram, fn() -> Histogram>,
    rejected: Family<ReasonLabel, Counter>,
    failures: Family<ReasonLabel, Counter>,
    control_plane_calls: Family<ResultLabel, Counter>,
    cache_entries: Gauge,
    cache_size: Gauge,
}

/// Origin of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    Cache,
    NameServer,
    Mesh,
    Agent,
}

/// Why a query or a connection of a client is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rejection {
    Limit,
    Malformed,
}

/// Why the response of a name server is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    Timeout,
    Error,
    ResponseCode,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResponseLabels {
    transport: &'static str,
    origin: &'static str,
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OriginLabel {
    origin: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

// === impl Metrics ===

impl Default for Metrics {
    fn default() -> Self {
        Self {
            responses: Family::default(),
            duration: Family::new_with_constructor(duration_histogram),
            rejected: Family::default(),
            failures: Family::default(),
            control_plane_calls: Family::default(),
            cache_entries: Gauge::default(),
            cache_size: Gauge::default(),
        }
    }
}

/// Returns a histogram of durations in seconds. The smallest bucket is for responses of the cache; the largest ones are
/// for the timeouts of one name server and of several.
fn duration_histogram() -> Histogram {
    Histogram::new([0.000_05, 0.000_2, 0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 5.0])
}

impl Metrics {
    /// Registers the metrics.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Responses to clients, by transport, origin and response code";
        registry.register("dns_responses", help, self.responses.clone());
        let help = "Time from the query to the response, by origin";
        registry.register_with_unit(
            "dns_response_duration",
            help,
            Unit::Seconds,
            self.duration.clone(),
        );
        let help = "Queries and connections that were not served, by reason";
        registry.register("dns_rejected", help, self.rejected.clone());
        let help = "Queries to a name server that got no usable response, by reason";
        registry.register("dns_name_server_failures", help, self.failures.clone());
        let help = "Calls to the control plane about names of the mesh, by result";
        registry.register("dns_control_plane_calls", help, self.control_plane_calls.clone());
        let help = "Responses in the cache";
        registry.register("dns_cache_entries", help, self.cache_entries.clone());
        let help = "Memory of the responses in the cache";
        registry.register_with_unit("dns_cache_size", help, Unit::Bytes, self.cache_size.clone());
    }

    pub(crate) fn count_response(
        &self,
        transport: Transport,
        origin: Origin,
        code: ResponseCode,
        start: Instant,
    ) {
        let origin = match origin {
            Origin::Cache => "Cache",
            Origin::NameServer => "NameServer",
            Origin::Mesh => "Mesh",
            Origin::Agent => "Agent",
        };
        let labels = ResponseLabels {
            transport: match transport {
                Transport::Udp => "UDP",
                Transport::Tcp => "TCP",
            },
            origin,
            code: match code {
                ResponseCode::NoError => "NOERROR",
                ResponseCode::NXDomain => "NXDOMAIN",
                ResponseCode::ServFail => "SERVFAIL",
                ResponseCode::Refused => "REFUSED",
                _ => "Other",
            },
        };
        self.responses.get_or_create(&labels).inc();
        let duration = start.elapsed().as_secs_f64();
        self.duration
            .get_or_create(&OriginLabel { origin })
            .observe(duration);
    }

    pub(crate) fn count_rejection(&self, rejection: Rejection) {
        let reason = match rejection {
            Rejection::Limit => "Limit",
            Rejection::Malformed => "Malformed",
        };
        self.rejected.get_or_create(&ReasonLabel { reason }).inc();
    }

    pub(crate) fn count_failure(&self, failure: Failure) {
        let reason = match failure {
            Failure::Timeout => "Timeout",
            Failure::Error => "Error",
            Failure::ResponseCode => "ResponseCode",
        };
        self.failures.get_or_create(&ReasonLabel { reason }).inc();
    }

    pub(crate) fn count_control_plane_call(&self, is_success: bool) {
        let result = if is_success { "Resolved" } else { "Failed" };
        self.control_plane_calls
            .get_or_create(&ResultLabel { result })
            .inc();
    }

    pub(crate) fn set_cache(&self, entries: usize, bytes: usize) {
        self.cache_entries.set(i64::try_from(entries).unwrap_or(i64::MAX));
        self.cache_size.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
}
