//! What an operator wants to know of the streams.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use kermode_envoy::ResourceKind;

/// Metrics of all streams; cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    pub(super) connected: Gauge,
    pub(super) responses: Family<KindLabels, Counter>,
    pub(super) response_bytes: Family<KindLabels, Counter>,
    pub(super) rejections: Family<KindLabels, Counter>,
    pub(super) refused: Counter,
    pub(super) acknowledged: Family<KindLabels, Histogram, fn() -> Histogram>,
}

/// The kind of resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct KindLabels {
    kind: KindLabel,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
enum KindLabel {
    Cluster,
    Endpoints,
    Listener,
    Route,
    Secret,
    Unknown,
}

impl From<Option<ResourceKind>> for KindLabels {
    fn from(kind: Option<ResourceKind>) -> Self {
        let kind = match kind {
            Some(ResourceKind::Cluster) => KindLabel::Cluster,
            Some(ResourceKind::Endpoints) => KindLabel::Endpoints,
            Some(ResourceKind::Listener) => KindLabel::Listener,
            Some(ResourceKind::Route) => KindLabel::Route,
            Some(ResourceKind::Secret) => KindLabel::Secret,
            None => KindLabel::Unknown,
        };
        Self { kind }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            connected: Gauge::default(),
            responses: Family::default(),
            response_bytes: Family::default(),
            rejections: Family::default(),
            refused: Counter::default(),
            acknowledged: Family::new_with_constructor(|| {
                Histogram::new([0.001, 0.002, 0.005, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0])
            }),
        }
    }
}

impl Metrics {
    /// Registers everything.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "xds_connected_proxies",
            "Streams of authenticated proxies",
            self.connected.clone(),
        );
        registry.register("xds_responses", "Responses sent, by kind", self.responses.clone());
        let help = "Size of the responses sent, by kind";
        registry.register_with_unit("xds_responses", help, Unit::Bytes, self.response_bytes.clone());
        registry.register(
            "xds_rejections",
            "Responses that Envoy rejected, by kind",
            self.rejections.clone(),
        );
        let help = "Streams that were refused or cut off";
        registry.register("xds_streams_refused", help, self.refused.clone());
        let help = "Time from sending a response to Envoy's answer, by kind";
        registry.register_with_unit(
            "xds_acknowledgement",
            help,
            Unit::Seconds,
            self.acknowledged.clone(),
        );
    }
}
