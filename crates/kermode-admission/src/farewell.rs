//! Callers are told in time that a replica has to go.
//!
//! The API server calls webhooks over HTTP/1.1 and keeps its connections
//! (<https://github.com/kubernetes/kubernetes/issues/75791>). One that is closed at the moment when a question is written
//! on it refuses a Pod, so a replica that is not ready any more closes each connection with an answer on it, until only
//! idle ones are left.

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, Version};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use kermode_runtime::readiness::Readiness;

/// Ends connections with their next answer while the process is not ready.
pub fn layer(router: Router, readiness: Readiness) -> Router {
    router.layer(from_fn_with_state(readiness, close_unless_ready))
}

async fn close_unless_ready(State(readiness): State<Readiness>, request: Request, next: Next) -> Response {
    // HTTP/2 has a farewell of its own, and forbids this one.
    let is_http1 = request.version() <= Version::HTTP_11;
    let mut response = next.run(request).await;
    if is_http1 && !readiness.pending().is_empty() {
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::routing::get;
    use tower::ServiceExt;

    use super::*;

    async fn connection(readiness: &Readiness, version: Version) -> Option<HeaderValue> {
        let router = layer(Router::new().route("/", get(|| async {})), readiness.clone());
        let request = Request::builder()
            .version(version)
            .body(Body::empty())
            .expect("a request");
        let response = router.oneshot(request).await.expect("infallible");
        response.headers().get(CONNECTION).cloned()
    }

    #[tokio::test]
    async fn connections_are_kept_until_the_process_has_to_go() {
        let readiness = Readiness::default();
        assert_eq!(connection(&readiness, Version::HTTP_11).await, None);
        let _unready = readiness.expect("shutdown");
        assert_eq!(
            connection(&readiness, Version::HTTP_11).await,
            Some(HeaderValue::from_static("close"))
        );
        assert_eq!(connection(&readiness, Version::HTTP_2).await, None);
    }
}
