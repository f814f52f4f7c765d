//! Writes of one object in each namespace of sidecars: their metrics, and the repetition of failed writes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tokio::time::{Instant, sleep_until};

/// Pause before failed writes are repeated. A Pod starts without a ConfigMap of the roots, and the kubelet repeats the
/// start of a Pod without a network, so the pause delays little.
pub(super) const RETRY_PAUSE: Duration = Duration::from_secs(10);

/// Counter of writes by result.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    writes: Family<WriteLabels, Counter>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct WriteLabels {
    result: WriteResult,
}

/// Result of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum WriteResult {
    /// The object was created or updated.
    Written,
    /// The write failed and will be retried.
    Failed,
}

/// Namespaces whose last write failed.
#[derive(Debug, Default)]
pub(super) struct FailingWrites {
    namespaces: BTreeSet<Arc<str>>,
    /// Time of the next retry.
    retry_at: Option<Instant>,
}

impl Metrics {
    /// Returns the counter, to be registered.
    pub(super) fn counter(&self) -> Family<WriteLabels, Counter> {
        self.writes.clone()
    }

    /// Returns the number of writes with a result.
    pub fn write_count(&self, result: WriteResult) -> u64 {
        self.writes.get_or_create(&WriteLabels { result }).get()
    }

    pub(super) fn count(&self, result: WriteResult) {
        self.writes.get_or_create(&WriteLabels { result }).inc();
    }
}

// === impl FailingWrites ===

impl FailingWrites {
    /// Waits until failed writes are to be repeated; forever if there are none.
    pub(super) async fn until_retry(&self) {
        match self.retry_at {
            Some(at) => sleep_until(at).await,
            None => std::future::pending().await,
        }
    }

    /// Returns the outdated namespaces to write now. A failed write is repeated only by a retry. A retry forgets the
    /// namespaces that no longer need a write.
    pub(super) fn due(&mut self, mut outdated: Vec<Arc<str>>, is_retry: bool) -> Vec<Arc<str>> {
        if is_retry {
            self.retry_at = None;
            self.namespaces.retain(|namespace| outdated.contains(namespace));
        } else {
            outdated.retain(|namespace| !self.namespaces.contains(namespace));
        }
        outdated
    }

    pub(super) fn on_written(&mut self, namespace: &str) {
        self.namespaces.remove(namespace);
    }

    /// Records a failed write. Returns whether the previous write of the namespace had not failed.
    pub(super) fn on_failed(&mut self, namespace: Arc<str>) -> bool {
        self.retry_at.get_or_insert_with(|| Instant::now() + RETRY_PAUSE);
        self.namespaces.insert(namespace)
    }
}
