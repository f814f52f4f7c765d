//! The admission webhooks: HTTPS shells around `kermode-inject` and the validation of our resources.
//!
//! Answers come from memory. Only what memory does not have yet, such as a namespace made a moment ago, is asked of
//! the API server, within the time that an admission may take.

mod inject;
mod review;
mod validate;

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response as HttpResponse};
use axum::routing::post;
use kube::Client;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::directory::Directory;

/// The largest review worth reading, in bytes: an object of etcd's 1.5 MiB, twice, with room to spare.
const MAX_BODY: usize = 8 * 1024 * 1024;

/// What the webhooks work with.
pub(crate) struct Webhooks {
    /// Settings of injection.
    pub(crate) settings: kermode_inject::Settings,
    /// Namespaces, meshes, ContainerPatches.
    pub(crate) directory: Directory,
    /// For what the directory does not have yet.
    pub(crate) client: Client,
    /// URL handed to proxies.
    pub(crate) control_plane_url: String,
    /// CA handed to proxies, PEM.
    pub(crate) control_plane_ca_pem: String,
    /// The control plane's namespace.
    pub(crate) system_namespace: String,
    /// Counts and times.
    pub(crate) metrics: Metrics,
}

/// Counts and times reviews.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    reviews: Family<ReviewLabels, Counter>,
    duration: Histogram,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReviewLabels {
    webhook: &'static str,
    outcome: &'static str,
    reason: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        let buckets = [
            0.000_1, 0.000_25, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.05, 0.25, 1.0, 10.0,
        ];
        Self {
            reviews: Family::default(),
            duration: Histogram::new(buckets),
        }
    }
}

impl Metrics {
    /// Registers counter and histogram.
    pub(crate) fn register(&self, registry: &mut Registry) {
        let help = "Admission reviews answered, by what was decided and why";
        registry.register("admission_reviews", help, self.reviews.clone());
        let help = "Time from the whole request to the answer";
        registry.register_with_unit(
            "admission_review_duration",
            help,
            Unit::Seconds,
            self.duration.clone(),
        );
    }

    fn count(&self, webhook: &'static str, outcome: &'static str, reason: &'static str) {
        self.reviews
            .get_or_create(&ReviewLabels {
                webhook,
                outcome,
                reason,
            })
            .inc();
    }
}

/// The webhooks' routes, with the paths that the registrations name.
pub(crate) fn router(webhooks: Webhooks) -> Router {
    Router::new()
        .route("/inject-sidecar", post(inject_sidecar))
        .route("/validate-kuma-io-v1alpha1", post(validate))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(Arc::new(webhooks))
}

async fn inject_sidecar(State(webhooks): State<Arc<Webhooks>>, body: Bytes) -> HttpResponse {
    let _timer = Timer::start(&webhooks.metrics.duration);
    match review::parse(&body) {
        Ok(request) => answer(webhooks.inject(request).await),
        Err(error) => webhooks.malformed("inject", &error),
    }
}

async fn validate(State(webhooks): State<Arc<Webhooks>>, body: Bytes) -> HttpResponse {
    match review::parse(&body) {
        Ok(request) => answer(webhooks.validate(request)),
        Err(error) => webhooks.malformed("validate", &error),
    }
}

impl Webhooks {
    fn malformed(&self, webhook: &'static str, error: &review::InvalidReview) -> HttpResponse {
        self.metrics.count(webhook, "malformed", "InvalidReview");
        tracing::warn!(webhook, "admission review refused: {error}");
        (StatusCode::BAD_REQUEST, error.to_string()).into_response()
    }
}

fn answer(response: review::Response) -> HttpResponse {
    axum::Json(response.into_review()).into_response()
}

/// Observes the time from its start to its end.
struct Timer<'a> {
    histogram: &'a Histogram,
    start: std::time::Instant,
}

impl<'a> Timer<'a> {
    fn start(histogram: &'a Histogram) -> Self {
        Self {
            histogram,
            start: std::time::Instant::now(),
        }
    }
}

impl Drop for Timer<'_> {
    fn drop(&mut self) {
        self.histogram.observe(self.start.elapsed().as_secs_f64());
    }
}
