//! Metrics of writes of Dataplanes and of their statuses.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// Counters of writes by result, and of Pods without a usable Dataplane.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    writes: Family<WriteLabels, Counter>,
    generation_failures: Counter,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WriteLabels {
    result: WriteResult,
}

/// Result of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum WriteResult {
    /// A Dataplane was created.
    Created,
    /// A Dataplane was updated.
    Updated,
    /// Fields that other clients had added to a Dataplane were removed.
    Corrected,
    /// A Dataplane was deleted.
    Deleted,
    /// The status of a Dataplane was written.
    StatusWritten,
    /// The write failed and will be retried.
    Failed,
}

impl Metrics {
    /// Registers the counters.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "dataplane_writes",
            "Writes of Dataplanes to the API server",
            self.writes.clone(),
        );
        registry.register(
            "dataplane_generation_failures",
            "Pods that could not be converted to a Dataplane, or whose Dataplane was rejected or has no Mesh",
            self.generation_failures.clone(),
        );
    }

    /// Returns the number of writes with a result.
    pub fn write_count(&self, result: WriteResult) -> u64 {
        self.writes.get_or_create(&WriteLabels { result }).get()
    }

    /// Counts a Pod that could not be converted, or whose Dataplane was rejected by the API server or names a Mesh that
    /// does not exist.
    pub fn count_generation_failure(&self) {
        self.generation_failures.inc();
    }

    pub(crate) fn count_write(&self, result: WriteResult) {
        self.writes.get_or_create(&WriteLabels { result }).inc();
    }
}
