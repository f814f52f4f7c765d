//! Metrics of the engine: its lag behind the watches, and the amount and duration of its work.

use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// Metrics of the engine; cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    events: Counter,
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
            events: Counter::default(),
            conversions: Counter::default(),
            waiting: Gauge::default(),
            lag: Histogram::new(buckets),
            work: Histogram::new(buckets),
        }
    }
}

impl Metrics {
    /// Registers all metrics.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Watch events received";
        registry.register("engine_watch_events", help, self.events.clone());
        let help = "Pods converted to Dataplanes because of watch events";
        registry.register("engine_conversions", help, self.conversions.clone());
        let help =
            "Watch events that were waiting when the last batch was received, including those of the batch";
        registry.register("engine_waiting_watch_events", help, self.waiting.clone());
        let help = "Time from the oldest watch event of a batch to the publication of the batch";
        registry.register_with_unit("engine_lag", help, Unit::Seconds, self.lag.clone());
        let help = "Time to apply a batch of watch events and to generate and publish the touched resources";
        registry.register_with_unit("engine_work", help, Unit::Seconds, self.work.clone());
    }

    /// Counts a batch of `size` events. `still_queued` is the number of events that are still in the channel.
    pub(crate) fn batch_received(&self, size: usize, still_queued: usize) {
        self.events.inc_by(size as u64);
        self.waiting
            .set(i64::try_from(size + still_queued).unwrap_or(i64::MAX));
    }

    /// Counts conversions of Pods to Dataplanes.
    pub(crate) fn pods_converted(&self, pods: u64) {
        self.conversions.inc_by(pods);
    }

    /// Observes the publication of a batch whose oldest event was received at `oldest_received_at` (`None` for an empty
    /// batch) and whose processing began at `started_at`.
    pub(crate) fn batch_published(&self, oldest_received_at: Option<Instant>, started_at: Instant) {
        let now = Instant::now();
        let since = |instant: Instant| -> Duration { now.saturating_duration_since(instant) };
        if let Some(oldest_received_at) = oldest_received_at {
            self.lag.observe(since(oldest_received_at).as_secs_f64());
        }
        self.work.observe(since(started_at).as_secs_f64());
    }
}
