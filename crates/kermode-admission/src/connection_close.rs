//! Closes connections gracefully when a replica shuts down.
//!
//! The API server calls webhooks over HTTP/1.1 and keeps its connections open
//! (<https://github.com/kubernetes/kubernetes/issues/75791>). If a replica closes a connection while the API server
//! sends a request on it, the API server denies the Pod. Therefore, a replica that shuts down becomes unready first,
//! and an unready replica adds `Connection: close` to each response.

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, Version};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use kermode_runtime::readiness::Readiness;

/// Adds a layer that closes each HTTP/1 connection after its next response while the replica is not ready.
pub fn layer(router: Router, readiness: Readiness) -> Router {
    router.layer(from_fn_with_state(readiness, close_unless_ready))
}

async fn close_unless_ready(State(readiness): State<Readiness>, request: Request, next: Next) -> Response {
    // HTTP/2 forbids the header and has GOAWAY instead.
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

    async fn connection_header(readiness: &Readiness, version: Version) -> Option<HeaderValue> {
        let router = layer(Router::new().route("/", get(|| async {})), readiness.clone());
        let request = Request::builder()
            .version(version)
            .body(Body::empty())
            .expect("a request");
        let response = router.oneshot(request).await.expect("infallible");
        response.headers().get(CONNECTION).cloned()
    }

    #[tokio::test]
    async fn connections_are_kept_while_the_replica_is_ready() {
        let readiness = Readiness::default();
        assert_eq!(connection_header(&readiness, Version::HTTP_11).await, None);
        let _unready = readiness.register("shutdown");
        assert_eq!(
            connection_header(&readiness, Version::HTTP_11).await,
            Some(HeaderValue::from_static("close"))
        );
        assert_eq!(
            connection_header(&readiness, Version::HTTP_2).await,
            None,
            "HTTP/2 forbids the header"
        );
    }
}
