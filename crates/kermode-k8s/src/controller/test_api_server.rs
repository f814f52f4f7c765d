//! An API server in memory, for tests.

use http::{Method, Request, Response, Uri};
use http_body_util::BodyExt as _;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

/// Request to the API server.
pub(super) struct ApiRequest {
    pub(super) method: Method,
    pub(super) uri: Uri,
    /// Body as JSON; null if the request has none.
    pub(super) body: Value,
}

/// Status code and body of a response.
pub(super) type ApiResponse = (u16, Value);

impl ApiRequest {
    /// Returns the query; empty if the request has none.
    pub(super) fn query(&self) -> &str {
        self.uri.query().unwrap_or_default()
    }
}

/// Returns a client of an API server that responds with `respond`. Watch requests never end.
pub(super) fn client(
    default_namespace: &str,
    respond: impl Fn(ApiRequest) -> ApiResponse + Clone + Send + Sync + 'static,
) -> Client {
    let service = tower::service_fn(move |request: Request<Body>| {
        let respond = respond.clone();
        async move {
            let (head, body) = request.into_parts();
            if head.uri.query().is_some_and(|query| query.contains("watch=true")) {
                return std::future::pending().await;
            }
            let body = body.collect().await?.to_bytes();
            let body = if body.is_empty() {
                Value::Null
            } else {
                serde_json::from_slice(&body)?
            };
            let (status, response) = respond(ApiRequest {
                method: head.method,
                uri: head.uri,
                body,
            });
            let body = Body::from(response.to_string().into_bytes());
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(Response::builder().status(status).body(body)?)
        }
    });
    Client::new(service, default_namespace)
}

/// Returns a failure with this code, reason and message.
pub(super) fn failure(code: u16, reason: &str, message: &str) -> ApiResponse {
    (
        code,
        json!({"status": "Failure", "code": code, "reason": reason, "message": message}),
    )
}

/// Returns a list of objects.
pub(super) fn list(items: &[Value]) -> ApiResponse {
    (200, json!({"metadata": {"resourceVersion": "1"}, "items": items}))
}
