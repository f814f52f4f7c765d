//! Metric of the connections that a server closes or refuses at a limit.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// Metric of the connections that servers close or refuse at a limit; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct ConnectionMetrics {
    limited: Family<LimitLabels, Counter>,
}

/// Labels of the metric. All values are constants, so that clients cannot create time series.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LimitLabels {
    server: &'static str,
    result: &'static str,
}

/// Limit on the open connections of a server, with counters of the closed and refused connections.
#[derive(Clone, Debug)]
pub struct ConnectionLimit {
    /// Maximum number of open connections.
    pub(super) max_connections: usize,
    /// Counters of the connections that were closed or refused at a limit.
    pub(super) counters: LimitCounters,
}

/// Counters of the connections that were closed or refused at a limit.
#[derive(Clone, Debug, Default)]
pub(super) struct LimitCounters {
    /// Connections that were closed for a new one.
    pub(super) closed: Counter,
    /// New connections that were refused, because no connection could be closed for them.
    pub(super) refused: Counter,
}

impl ConnectionMetrics {
    /// Registers the metric.
    pub fn register(&self, registry: &mut Registry) {
        let help =
            "Connections closed for a new one, or refused, at a limit on connections, by server and result";
        registry.register("connections_limited", help, self.limited.clone());
    }

    /// Returns a limit. The metric counts closed and refused connections under the name of the server.
    pub fn limit(&self, server: &'static str, max_connections: usize) -> ConnectionLimit {
        let counter = |result| {
            self.limited
                .get_or_create(&LimitLabels { server, result })
                .clone()
        };
        ConnectionLimit {
            max_connections,
            counters: LimitCounters {
                closed: counter("Closed"),
                refused: counter("Refused"),
            },
        }
    }
}

/// A limit without metric.
impl From<usize> for ConnectionLimit {
    fn from(max_connections: usize) -> Self {
        Self {
            max_connections,
            counters: LimitCounters::default(),
        }
    }
}
