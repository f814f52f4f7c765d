//! Tests of HTTP over a connection to a Pod, with a server at the other end of an in-memory stream, and of the errors of
//! the API server.

use std::future::ready;

use kube::Client;
use kube::client::Body;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

const LIMIT: usize = 16;

fn port() -> PodPort {
    PodPort {
        namespace: "shop".to_owned(),
        pod: "web-0".to_owned(),
        port: 9901,
    }
}

/// Requests a path from a server that sends `response` and keeps the connection open unless `closes`.
async fn get(response: &'static str, closes: bool, timeout: Duration) -> Result<Vec<u8>, ForwardError> {
    let (client, mut server) = tokio::io::duplex(1024);
    let serving = tokio::spawn(async move {
        let mut request = [0; 512];
        let _ = server.read(&mut request).await;
        let _ = server.write_all(response.as_bytes()).await;
        (!closes).then_some(server)
    });
    let mut http = PodHttp::new(client, None, port(), timeout).await?;
    let response = http.get("/stats", LIMIT).await;
    drop(serving);
    response
}

async fn error_of(response: &'static str, closes: bool, timeout: Duration) -> String {
    let error = get(response, closes, timeout).await.expect_err("an error");
    error.to_string()
}

/// Time limit that no test reaches.
const LONG: Duration = Duration::from_mins(10);

#[tokio::test]
async fn body_of_a_response_is_returned() {
    let body = get("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nyes", false, LONG).await;
    assert_eq!(body.expect("a body"), b"yes");
}

#[tokio::test]
async fn response_above_the_limit_is_an_error() {
    let response = "HTTP/1.1 200 OK\r\ncontent-length: 17\r\n\r\n12345678901234567";
    assert_eq!(
        error_of(response, false, LONG).await,
        "port 9901 of Pod shop/web-0: the response to GET /stats is larger than 16 bytes; ask for less"
    );
}

#[tokio::test]
async fn status_of_an_error_is_repeated_with_its_text() {
    let error = error_of(
        "HTTP/1.1 400 Bad Request\r\ncontent-length: 4\r\n\r\nwhy\n",
        false,
        LONG,
    )
    .await;
    assert!(error.contains("responds with 400 Bad Request (why)"), "{error}");
}

#[tokio::test]
async fn response_that_ends_early_or_never_comes_is_an_error() {
    let error = error_of("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx", true, LONG).await;
    assert!(error.contains("ends before its body is complete"), "{error}");
    let error = error_of("", false, Duration::from_millis(1)).await;
    assert!(
        error.contains("no complete response to GET /stats within 1ms"),
        "{error}"
    );
}

#[tokio::test]
async fn message_of_the_kubelet_is_the_reason_of_a_port_that_cannot_be_reached() {
    // The stream has no peer, so HTTP fails at the same time.
    let (client, _) = tokio::io::duplex(1);
    let failure = Box::pin(ready(Some("connection refused\n".to_owned())));
    let mut http = PodHttp::new(client, Some(failure), port(), LONG)
        .await
        .expect("a connection");
    let error = http.get("/stats", LIMIT).await.expect_err("an error").to_string();
    assert!(
        error.contains("the kubelet cannot connect to the port") && error.ends_with("(connection refused)"),
        "{error}"
    );
}

#[tokio::test]
async fn missing_permission_names_the_verb_that_the_api_server_checked() {
    for verb in ["get", "create"] {
        let service = tower::service_fn(move |_: http::Request<Body>| {
            let message = format!("User \"u\" cannot {verb} resource \"pods/portforward\"");
            let status = json!({
                "kind": "Status", "status": "Failure", "code": 403, "reason": "Forbidden", "message": message,
            });
            let body = Body::from(status.to_string().into_bytes());
            ready(http::Response::builder().status(403).body(body))
        });
        let cluster = ClusterClient {
            client: Client::new(service, "default"),
            name: "https://test".to_owned(),
            timeout: LONG,
        };
        let error = cluster.open(&port()).await.err().expect("forbidden").to_string();
        let expected = format!("ask for a role with verb {verb} on pods/portforward in namespace shop");
        assert!(error.contains(&expected), "{error}");
    }
}
