//! The admission webhooks: HTTPS shells around `kermode-inject` and the validation of our resources.
//!
//! Answers come from memory. Only what memory does not have yet, such as a namespace made a moment ago, is asked of
//! the API server, within the time that an admission may take.

mod deadline;
pub mod directory;
pub mod farewell;
mod inject;
mod look_up;
mod metrics;
mod reasons;
mod review;
mod room;
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
use kube::Client;
use tokio::time::Instant;

pub use self::metrics::Metrics;
pub use self::reasons::Reasons;

use self::deadline::{Deadline, TooLate};
use self::directory::Directory;
use self::room::{MAX_BODY, Room};

/// What the webhooks work with.
pub struct Webhooks {
    /// Settings of injection.
    pub settings: kermode_inject::Settings,
    /// Namespaces, meshes, ContainerPatches.
    pub directory: Directory,
    /// For what the directory does not have yet.
    pub client: Client,
    /// URL handed to proxies.
    pub control_plane_url: String,
    /// CA handed to proxies, PEM.
    pub control_plane_ca_pem: String,
    /// The control plane's namespace.
    pub system_namespace: String,
    /// Tells why Pods are refused or left alone.
    pub reasons: Reasons,
    /// Counts and times.
    pub metrics: Metrics,
}

/// What calls share.
struct Shared {
    webhooks: Webhooks,
    room: Room,
}

/// The webhooks' routes, with the paths that the registrations name.
pub fn router(webhooks: Webhooks) -> Router {
    let room = Room::default();
    Router::new()
        .route("/inject-sidecar", post(inject_sidecar))
        .route("/validate-kuma-io-v1alpha1", post(validate))
        .route("/validate-workloads", post(validate_workload))
        .with_state(Arc::new(Shared { webhooks, room }))
}

type Call = (State<Arc<Shared>>, Query<deadline::Query>);

async fn inject_sidecar((State(shared), Query(query)): Call, body: Body) -> HttpResponse {
    let webhooks = &shared.webhooks;
    shared
        .answer("inject", &query, body, async |request, deadline| {
            webhooks.inject(request, deadline).await
        })
        .await
}

async fn validate((State(shared), Query(query)): Call, body: Body) -> HttpResponse {
    let webhooks = &shared.webhooks;
    shared
        .answer("validate", &query, body, async |request, deadline| {
            webhooks.validate(request, deadline).await
        })
        .await
}

async fn validate_workload((State(shared), Query(query)): Call, body: Body) -> HttpResponse {
    let webhooks = &shared.webhooks;
    shared
        .answer("workload", &query, body, async |request, _| {
            webhooks.workload(request)
        })
        .await
}

/// Why a call gets no answer but an error of HTTP; the API server then follows the registration's failure policy.
#[derive(Debug, thiserror::Error)]
enum Unanswerable {
    #[error("the review did not arrive in time")]
    TooLate,
    #[error("the review cannot be read: {0}")]
    Body(axum::Error),
    #[error("the review is larger than {MAX_BODY} bytes")]
    TooLarge,
    #[error(transparent)]
    TooComplex(#[from] room::TooComplex),
    #[error(transparent)]
    Invalid(#[from] review::InvalidReview),
}

impl Shared {
    async fn answer(
        &self,
        webhook: &'static str,
        query: &deadline::Query,
        body: Body,
        decide: impl AsyncFnOnce(review::Request, Deadline) -> review::Response,
    ) -> HttpResponse {
        let _timer = self.webhooks.metrics.time(webhook);
        let deadline = Deadline::new(query, Instant::now());
        let answer = async {
            let length = body
                .size_hint()
                .exact()
                .and_then(|length| usize::try_from(length).ok());
            let taken = deadline.read(self.room.body(length)).await?;
            let text = deadline.read(read(body, length)).await??;
            let _document = deadline.read(self.room.document(&text)).await??;
            let request = review::parse(&text)?;
            drop((text, taken));
            Ok(decide(request, deadline).await.into_http())
        };
        answer.await.unwrap_or_else(|error: Unanswerable| {
            self.webhooks.metrics.count(webhook, "malformed", error.reason());
            tracing::debug!(webhook, "admission review not answered: {error}");
            (error.status(), error.to_string()).into_response()
        })
    }
}

/// Reads a body that is not too large.
async fn read(body: Body, length: Option<usize>) -> Result<Bytes, Unanswerable> {
    if length.is_some_and(|length| length > MAX_BODY) {
        return Err(Unanswerable::TooLarge);
    }
    let limited = http_body_util::Limited::new(body, MAX_BODY);
    match http_body_util::BodyExt::collect(limited).await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(Unanswerable::TooLarge),
        Err(error) => Err(Unanswerable::Body(axum::Error::new(error))),
    }
}

// === impl Unanswerable ===

impl From<TooLate> for Unanswerable {
    fn from(_: TooLate) -> Self {
        Self::TooLate
    }
}

impl Unanswerable {
    fn status(&self) -> StatusCode {
        match self {
            Self::TooLate => StatusCode::SERVICE_UNAVAILABLE,
            Self::Body(_) | Self::Invalid(_) => StatusCode::BAD_REQUEST,
            Self::TooLarge | Self::TooComplex(_) => StatusCode::PAYLOAD_TOO_LARGE,
        }
    }

    /// A stable word for the metric.
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
