//! How far the engine is behind what happens, and what its work costs.

use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// Metrics of the engine; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    messages: Counter,
    conversions: Counter,
    waiting: Gauge,
    lag: Histogram,
    work: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        let buckets = [
            0.000_1, 0.000_3, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0,
        ];
        Self {
            messages: Counter::default(),
            conversions: Counter::default(),
            waiting: Gauge::default(),
            lag: Histogram::new(buckets),
            work: Histogram::new(buckets),
        }
    }
}

impl Metrics {
    /// Registers everything.
    pub(crate) fn register(&self, registry: &mut Registry) {
        let help = "Changes of Kubernetes objects that the watches told";
        registry.register("engine_messages", help, self.messages.clone());
        let help = "Pods made into Dataplanes anew because of changes";
        registry.register("engine_conversions", help, self.conversions.clone());
        let help = "Changes that waited when the engine last took some";
        registry.register("engine_waiting_messages", help, self.waiting.clone());
        let help =
            "Time from a change told by a watch, the oldest of a batch, to the publication of its effects";
        registry.register_with_unit("engine_lag", help, Unit::Seconds, self.lag.clone());
        let help = "Time to apply a batch of changes, and to encode and publish what they touch";
        registry.register_with_unit("engine_work", help, Unit::Seconds, self.work.clone());
    }

    /// A batch was taken, and this many more wait.
    pub(super) fn taken(&self, batch: usize, waiting: usize) {
        self.messages.inc_by(batch as u64);
        self.waiting
            .set(i64::try_from(batch + waiting).unwrap_or(i64::MAX));
    }

    /// So many Pods were made into Dataplanes because of it.
    pub(super) fn converted(&self, pods: u64) {
        self.conversions.inc_by(pods);
    }

    /// A batch whose oldest message was told at `told` has been published, by work that began at `begun`.
    pub(super) fn published(&self, told: Option<Instant>, begun: Instant) {
        let now = Instant::now();
        let since = |instant: Instant| -> Duration { now.saturating_duration_since(instant) };
        if let Some(told) = told {
            self.lag.observe(since(told).as_secs_f64());
        }
        self.work.observe(since(begun).as_secs_f64());
    }
}
