//! The diagnostics server: `/healthy`, `/ready` and `/metrics` in plain HTTP.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;

use crate::readiness::Readiness;
use crate::shutdown::Shutdown;

/// State that the handlers read.
#[derive(Clone)]
struct Diagnostics {
    readiness: Readiness,
    registry: Arc<Mutex<Registry>>,
}

/// Returns the routes of the diagnostics server.
pub fn router(readiness: Readiness, registry: Arc<Mutex<Registry>>) -> Router {
    Router::new()
        .route("/healthy", get(async || "healthy\n"))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .with_state(Diagnostics { readiness, registry })
}

/// Serves `router` in plain HTTP until shutdown.
///
/// # Errors
/// If the listener fails.
pub async fn serve(
    listener: tokio::net::TcpListener,
    router: Router,
    shutdown: Shutdown,
) -> std::io::Result<()> {
    axum::serve(listener, router)
        .with_graceful_shutdown(shutdown.wait())
        .await
}

async fn ready(State(diagnostics): State<Diagnostics>) -> impl IntoResponse {
    let pending = diagnostics.readiness.pending();
    if pending.is_empty() {
        (StatusCode::OK, "ready\n".to_owned())
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("waiting for: {}\n", pending.join(", ")),
        )
    }
}

async fn metrics(State(diagnostics): State<Diagnostics>) -> impl IntoResponse {
    let mut text = String::new();
    let registry = diagnostics.registry.lock();
    let status = match prometheus_client::encoding::text::encode(&mut text, &registry) {
        Ok(()) => StatusCode::OK,
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    (status, [(header::CONTENT_TYPE, content_type)], text)
}
