//! What an operator wants to know of the writer.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// Counts writes, by what they did.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    writes: Family<WriteLabels, Counter>,
    not_generated: Counter,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WriteLabels {
    result: WriteResult,
}

/// What a write did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum WriteResult {
    /// A Dataplane is there that was not.
    Created,
    /// One is right that was not.
    Updated,
    /// What others had put into one was taken out.
    Corrected,
    /// One is gone.
    Deleted,
    /// The status of one says what it did not.
    Status,
    /// Nothing; it will be tried again.
    Failed,
}

impl Metrics {
    /// Registers the counters.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "dataplane_writes",
            "Dataplanes written to the API server",
            self.writes.clone(),
        );
        registry.register(
            "dataplane_generation_failures",
            "Times that a Pod could not be made into a Dataplane, or no more",
            self.not_generated.clone(),
        );
    }

    /// How many writes there were of that result.
    pub fn written(&self, result: WriteResult) -> u64 {
        self.writes.get_or_create(&WriteLabels { result }).get()
    }

    /// A Pod could not be converted.
    pub fn not_generated(&self) {
        self.not_generated.inc();
    }

    pub(crate) fn count(&self, result: WriteResult) {
        self.writes.get_or_create(&WriteLabels { result }).inc();
    }
}
