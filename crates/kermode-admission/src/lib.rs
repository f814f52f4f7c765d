//! The admission webhooks, which inject sidecars, validate Kermode's resources, and warn about objects that are valid
//! but will not work, for example because they name a service that does not exist.
//!
//! The webhooks decide with the objects in the [`directory`]. If the directory does not have an object yet, such as a
//! Namespace created a moment ago, a webhook looks up the object in the API server, within the timeout of the review.

pub mod connection_close;

mod deadline;
pub mod directory;
mod events;
mod inject;
mod lookup;
mod memory;
mod metrics;
mod recent;
mod review;
mod services;
#[cfg(test)]
mod tests;
mod validate;
mod workloads;

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response as HttpResponse};
use axum::routing::post;
use kermode_k8s::controller::roots::RootsReceiver;
use kube::Client;
use tokio::time::Instant;

pub use self::events::InjectionEvents;
pub use self::metrics::Metrics;
pub use self::recent::{DecisionKind, RecentDecision, RecentDecisions};

use self::deadline::{DeadlineExceeded, Deadlines};
use self::directory::Directory;
use self::memory::{MAX_BODY, MemoryBudget};

/// Dependencies and settings of the webhooks.
pub struct Webhooks {
    /// Settings of injection.
    pub settings: kermode_inject::Settings,
    /// Directory of the objects that admission reads.
    pub directory: Directory,
    /// Client for lookups of objects that the directory does not have yet.
    pub client: Client,
    /// URL at which sidecars connect to the control plane.
    pub control_plane_url: String,
    /// Roots with which sidecars verify the control plane.
    pub control_plane_roots: RootsReceiver,
    /// The control plane's namespace.
    pub system_namespace: String,
    /// Events about denied and skipped Pods.
    pub events: InjectionEvents,
    /// The most recent decisions about Pods.
    pub recent: RecentDecisions,
    /// Metrics of the webhooks.
    pub metrics: Metrics,
}

/// State shared by the handlers.
struct WebhookState {
    webhooks: Webhooks,
    memory: MemoryBudget,
}

/// Returns the routes of the webhooks, with the paths of the webhook registrations.
pub fn router(webhooks: Webhooks) -> Router {
    let memory = MemoryBudget::default();
    Router::new()
        .route("/inject-sidecar", post(inject_sidecar))
        .route("/validate-kuma-io-v1alpha1", post(validate))
        .route("/validate-workloads", post(validate_workload))
        .with_state(Arc::new(WebhookState { webhooks, memory }))
}

/// Extractors of each handler: the shared state and the query.
type Extractors = (State<Arc<WebhookState>>, Query<deadline::Query>);

async fn inject_sidecar((State(state), Query(query)): Extractors, body: Body) -> HttpResponse {
    let webhooks = &state.webhooks;
    state
        .respond("inject", &query, body, async |request, deadlines| {
            webhooks.inject(request, deadlines).await
        })
        .await
}

async fn validate((State(state), Query(query)): Extractors, body: Body) -> HttpResponse {
    let webhooks = &state.webhooks;
    state
        .respond("validate", &query, body, async |request, deadlines| {
            webhooks.validate(request, deadlines).await
        })
        .await
}

async fn validate_workload((State(state), Query(query)): Extractors, body: Body) -> HttpResponse {
    let webhooks = &state.webhooks;
    state
        .respond("workload", &query, body, async |request, deadlines| {
            webhooks.check_workload(request, deadlines).await
        })
        .await
}

/// Error of reading a review. The response is an HTTP status instead of a review, so the API server applies the failure
/// policy of the webhook registration.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("the review did not arrive in time")]
    TooLate,
    #[error("the review cannot be read: {0}")]
    Body(axum::Error),
    #[error("the review is larger than {MAX_BODY} bytes")]
    TooLarge,
    #[error(transparent)]
    TooComplex(#[from] memory::TooComplex),
    #[error(transparent)]
    Invalid(#[from] review::InvalidReview),
}

impl WebhookState {
    /// Reads a review within the deadline for reading and the memory budget, and responds with the decision. `webhook`
    /// is the value of the metrics label `webhook`.
    async fn respond(
        &self,
        webhook: &'static str,
        query: &deadline::Query,
        body: Body,
        decide: impl AsyncFnOnce(review::Request, Deadlines) -> review::Response,
    ) -> HttpResponse {
        let _timer = self.webhooks.metrics.start_timer(webhook);
        let deadlines = Deadlines::new(query, Instant::now());
        let response = async {
            let length = body
                .size_hint()
                .exact()
                .and_then(|length| usize::try_from(length).ok());
            let body_memory = deadlines.read(self.memory.reserve_body(length)).await?;
            let text = deadlines.read(read_body(body, length)).await??;
            let _document_memory = deadlines.read(self.memory.reserve_document(&text)).await??;
            let request = review::parse(&text)?;
            // Releases the memory of the body before the decision, which may wait for lookups.
            drop((text, body_memory));
            Ok(decide(request, deadlines).await.into_http())
        };
        response.await.unwrap_or_else(|error: ReadError| {
            self.webhooks.metrics.count(webhook, "malformed", error.reason());
            tracing::debug!(webhook, "admission review rejected: {error}");
            (error.status(), error.to_string()).into_response()
        })
    }
}

/// Reads a body of up to [`MAX_BODY`] bytes. `length` is the `Content-Length` of the request, if any.
async fn read_body(body: Body, length: Option<usize>) -> Result<Bytes, ReadError> {
    if length.is_some_and(|length| length > MAX_BODY) {
        return Err(ReadError::TooLarge);
    }
    let limited = http_body_util::Limited::new(body, MAX_BODY);
    match http_body_util::BodyExt::collect(limited).await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(ReadError::TooLarge),
        Err(error) => Err(ReadError::Body(axum::Error::new(error))),
    }
}

// === impl ReadError ===

impl From<DeadlineExceeded> for ReadError {
    fn from(_: DeadlineExceeded) -> Self {
        Self::TooLate
    }
}

impl ReadError {
    fn status(&self) -> StatusCode {
        match self {
            Self::TooLate => StatusCode::SERVICE_UNAVAILABLE,
            Self::Body(_) | Self::Invalid(_) => StatusCode::BAD_REQUEST,
            Self::TooLarge | Self::TooComplex(_) => StatusCode::PAYLOAD_TOO_LARGE,
        }
    }

    /// Returns the value of the metrics label `reason`.
    fn reason(&self) -> &'static str {
        match self {
            Self::TooLate => "TooLate",
            Self::Body(_) => "Interrupted",
            Self::TooLarge => "TooLarge",
            Self::TooComplex(_) => "TooComplex",
            Self::Invalid(_) => "InvalidReview",
        }
    }
}
