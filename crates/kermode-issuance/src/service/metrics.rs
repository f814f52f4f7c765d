//! Metrics of the issuance service: requests for certificates and streams of roots, by result and reason.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::denial::{Denial, DenialReason};

/// Metrics of the issuance service. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    requests: Family<ResultLabel, Counter>,
    denials: Family<ReasonLabel, Counter>,
    pub(super) streams: Gauge,
    denied_streams: Family<ReasonLabel, Counter>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: RequestResult,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: DenialReason,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
enum RequestResult {
    Issued,
    /// Denied because of the request: its token, its content, the rate of requests, or the timeout of the call.
    Refused,
    /// Denied because this replica does not know the proxy's Pod or Dataplane yet, or because the mesh has no mTLS.
    NotReady,
    /// Denied because of a failure of the API server, of the CA, or of signing.
    Failed,
}

impl Metrics {
    /// Registers the metrics.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Requests for workload certificates, by result";
        registry.register("certificate_requests", help, self.requests.clone());
        let help = "Denied requests for workload certificates, by reason";
        registry.register("certificate_refusals", help, self.denials.clone());
        let help = "Open streams that send the roots of a mesh to its proxies";
        registry.register("roots_streams", help, self.streams.clone());
        let help = "Denied streams of roots, by reason";
        registry.register("roots_streams_refused", help, self.denied_streams.clone());
    }

    pub(super) fn count_issued(&self) {
        self.count_request(RequestResult::Issued);
    }

    pub(super) fn count_denial(&self, denial: &Denial) {
        let reason = denial.reason();
        let result = match reason {
            DenialReason::UnknownProxy
            | DenialReason::UidMismatch
            | DenialReason::DataplaneNotFound
            | DenialReason::NoMtls => RequestResult::NotReady,
            DenialReason::ReviewUnavailable
            | DenialReason::AuthorityUnavailable
            | DenialReason::SigningFailed => RequestResult::Failed,
            _ => RequestResult::Refused,
        };
        self.count_request(result);
        self.denials.get_or_create(&ReasonLabel { reason }).inc();
    }

    pub(super) fn count_denied_stream(&self, denial: &Denial) {
        let reason = denial.reason();
        self.denied_streams.get_or_create(&ReasonLabel { reason }).inc();
    }

    fn count_request(&self, result: RequestResult) {
        self.requests.get_or_create(&ResultLabel { result }).inc();
    }
}
