//! Metrics of the webhooks: reviews by outcome and reason, and durations.

use std::time::Instant;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// Metrics of the webhooks. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    reviews: Family<ReviewLabels, Counter>,
    duration: Family<WebhookLabel, Histogram, fn() -> Histogram>,
}

/// Labels of a review. All values are constants, so that callers of the webhooks cannot create time series.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReviewLabels {
    webhook: &'static str,
    outcome: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WebhookLabel {
    webhook: &'static str,
}

/// Observes, when dropped, the duration of a review.
pub(super) struct Timer<'a> {
    metrics: &'a Metrics,
    webhook: &'static str,
    start: Instant,
}

// === impl Metrics ===

impl Default for Metrics {
    fn default() -> Self {
        Self {
            reviews: Family::default(),
            duration: Family::new_with_constructor(duration_histogram),
        }
    }
}

/// Returns a histogram of durations in seconds. The smallest bucket is for a decision without lookups; the largest
/// bucket is the default timeout of a webhook in Kubernetes.
fn duration_histogram() -> Histogram {
    Histogram::new([
        0.000_1, 0.000_25, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.05, 0.25, 1.0, 10.0,
    ])
}

impl Metrics {
    /// Registers the metrics.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Admission reviews, by webhook, outcome and reason";
        registry.register("admission_reviews", help, self.reviews.clone());
        let help = "Time from the head of the request to the response, by webhook";
        registry.register_with_unit(
            "admission_review_duration",
            help,
            Unit::Seconds,
            self.duration.clone(),
        );
    }

    /// Counts a review.
    pub(super) fn count(&self, webhook: &'static str, outcome: &'static str, reason: &'static str) {
        self.reviews
            .get_or_create(&ReviewLabels {
                webhook,
                outcome,
                reason,
            })
            .inc();
    }

    /// Returns a timer that observes, when dropped, the duration of a review.
    pub(super) fn start_timer(&self, webhook: &'static str) -> Timer<'_> {
        Timer {
            metrics: self,
            webhook,
            start: Instant::now(),
        }
    }
}

// === impl Timer ===

impl Drop for Timer<'_> {
    fn drop(&mut self) {
        let webhook = self.webhook;
        self.metrics
            .duration
            .get_or_create(&WebhookLabel { webhook })
            .observe(self.start.elapsed().as_secs_f64());
    }
}
