//! Metrics of ADS streams.

use std::sync::Arc;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use kermode_envoy::ResourceKind;

/// Metrics of all streams. Cheap to clone; clones share the values.
#[derive(Clone, Debug)]
pub struct Metrics {
    pub(super) connected: Gauge,
    pub(super) waiting: Gauge,
    pub(super) failed: Counter,
    pub(super) evicted: Counter,
    pub(super) names_ignored: Counter,
    responses: Family<KindLabels, Counter>,
    response_bytes: Family<KindLabels, Counter>,
    rejections: Family<KindLabels, Counter>,
    acknowledgement: Family<KindLabels, Histogram, fn() -> Histogram>,
    /// The metrics in the families above, in the order of [`ResourceKind::ALL`]. The last element is for all kinds that
    /// are not served. Cached, because a look-up in a family takes a lock, and thousands of streams update these
    /// metrics at every change of the mesh.
    by_kind: Arc<[KindMetrics]>,
}

/// Metrics of one kind.
#[derive(Debug)]
pub(super) struct KindMetrics {
    pub(super) responses: Counter,
    pub(super) response_bytes: Counter,
    pub(super) rejections: Counter,
    pub(super) acknowledgement: Histogram,
}

/// Label of a resource kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    kind: KindLabel,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
enum KindLabel {
    Cluster,
    Endpoints,
    Listener,
    Route,
    Secret,
    /// All kinds that are not served.
    Unserved,
}

impl From<Option<ResourceKind>> for KindLabels {
    fn from(kind: Option<ResourceKind>) -> Self {
        let kind = match kind {
            Some(ResourceKind::Cluster) => KindLabel::Cluster,
            Some(ResourceKind::Endpoints) => KindLabel::Endpoints,
            Some(ResourceKind::Listener) => KindLabel::Listener,
            Some(ResourceKind::Route) => KindLabel::Route,
            Some(ResourceKind::Secret) => KindLabel::Secret,
            None => KindLabel::Unserved,
        };
        Self { kind }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let responses = Family::<KindLabels, Counter>::default();
        let response_bytes = Family::<KindLabels, Counter>::default();
        let rejections = Family::<KindLabels, Counter>::default();
        let acknowledgement: Family<KindLabels, Histogram, fn() -> Histogram> =
            Family::new_with_constructor(|| {
                Histogram::new([0.001, 0.002, 0.005, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0])
            });
        let of_kind = |kind: Option<ResourceKind>| {
            let labels = KindLabels::from(kind);
            KindMetrics {
                responses: responses.get_or_create_owned(&labels),
                response_bytes: response_bytes.get_or_create_owned(&labels),
                rejections: rejections.get_or_create_owned(&labels),
                acknowledgement: acknowledgement.get_or_create_owned(&labels),
            }
        };
        let by_kind = ResourceKind::ALL
            .into_iter()
            .map(Some)
            .chain([None])
            .map(of_kind)
            .collect();
        Self {
            connected: Gauge::default(),
            waiting: Gauge::default(),
            failed: Counter::default(),
            evicted: Counter::default(),
            names_ignored: Counter::default(),
            responses,
            response_bytes,
            rejections,
            acknowledgement,
            by_kind,
        }
    }
}

impl Metrics {
    /// Returns the metrics of a kind. `None` stands for all kinds that are not served.
    pub(super) fn of(&self, kind: Option<ResourceKind>) -> &KindMetrics {
        let index = kind.map_or(ResourceKind::ALL.len(), |kind| kind as usize);
        &self.by_kind[index]
    }

    /// Registers the metrics.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "xds_connected_proxies",
            "Streams of authenticated proxies",
            self.connected.clone(),
        );
        let help = "Streams of authenticated proxies that wait to get their first configuration";
        registry.register("xds_waiting_proxies", help, self.waiting.clone());
        registry.register("xds_responses", "Responses sent, by kind", self.responses.clone());
        let help = "Size of the responses sent, by kind";
        registry.register_with_unit("xds_responses", help, Unit::Bytes, self.response_bytes.clone());
        registry.register(
            "xds_rejections",
            "Responses that Envoy rejected, by kind",
            self.rejections.clone(),
        );
        let help = "Streams that the server denied or ended with an error";
        registry.register("xds_streams_failed", help, self.failed.clone());
        let help = "Streams that were ended to rebalance proxies among replicas";
        registry.register("xds_streams_evicted", help, self.evicted.clone());
        let help = "Names of resources that do not exist, beyond the limit of a stream";
        registry.register("xds_names_ignored", help, self.names_ignored.clone());
        let help = "Time from sending a response to Envoy's ACK or NACK, by kind";
        registry.register_with_unit(
            "xds_acknowledgement",
            help,
            Unit::Seconds,
            self.acknowledgement.clone(),
        );
    }
}
