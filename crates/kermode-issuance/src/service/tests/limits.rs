//! Tests of the rate limits and time limits of the issuance service, over TLS.

use std::time::Duration;

use futures::StreamExt as _;
use http_body_util::StreamBody;
use kermode_identity::WorkloadKey;
use tonic::Code;
use tonic::body::Body;
use tower::ServiceExt as _;

use super::log::CapturedLog;
use super::server::{Server, mk_request};
use super::web_token;
use crate::authentication::tests::{SERVICE_ACCOUNT, VALID_SIGNATURE, mk_pod_of, mk_token};

#[tokio::test]
async fn proxy_that_requests_certificates_in_a_loop_is_denied_and_other_proxies_are_not() {
    let server = Server::start().await;
    let log = CapturedLog::start();
    let key = WorkloadKey::generate().expect("a key");
    let mut issued = 0;
    let denied = loop {
        match server.issue(&web_token(), mk_request(&key, "web.shop")).await {
            Ok(_) => issued += 1,
            Err(denied) => break denied,
        }
        assert!(issued < 100, "the rate is not limited");
    };
    assert!(
        issued >= 20,
        "fewer certificates than the allowed burst: {issued}"
    );
    assert_eq!(denied.code(), Code::ResourceExhausted);
    assert!(denied.message().contains("too often"), "{denied}");
    assert_eq!(server.denial_count("ProxyRate"), 1);
    assert!(log.take().iter().any(|line| line.contains("reason=ProxyRate")));
    let other = mk_token(SERVICE_ACCOUNT, "other", "2", VALID_SIGNATURE);
    assert!(server.issue(&other, mk_request(&key, "other.shop")).await.is_ok());
}

#[tokio::test]
async fn proxies_that_start_at_once_get_their_certificates() {
    let server = Server::start().await;
    for number in 0..1000 {
        let (name, ip) = (
            format!("web-{number}"),
            format!("10.1.{}.{}", number / 250, number % 250),
        );
        server
            .index
            .write()
            .apply_pod(mk_pod_of(&name, &ip, &format!("uid-{number}")));
    }
    let key = WorkloadKey::generate().expect("a key");
    let requests = (0..1000).map(|number| {
        let token = mk_token(
            SERVICE_ACCOUNT,
            &format!("web-{number}"),
            &format!("uid-{number}"),
            VALID_SIGNATURE,
        );
        let request = mk_request(&key, &format!("web-{number}.shop"));
        let server = &server;
        async move { server.issue(&token, request).await.map(drop) }
    });
    let outcomes: Vec<_> = futures::stream::iter(requests)
        .buffer_unordered(100)
        .collect()
        .await;
    let denied: Vec<_> = outcomes.into_iter().filter_map(Result::err).collect();
    assert!(denied.is_empty(), "{}: {:?}", denied.len(), denied.first());
    assert_eq!(server.issued_count(), 1000);
}

#[tokio::test]
async fn incomplete_request_times_out() {
    let server = Server::start_with_call_timeout(Duration::from_millis(50)).await;
    let silent_body = StreamBody::new(futures::stream::pending::<Result<_, tonic::Status>>());
    let request = http::Request::post(kermode_protocol::certificates::ISSUE_CERTIFICATE)
        .header("content-type", "application/grpc")
        .body(Body::new(silent_body))
        .expect("a request");
    let response = server.channel.clone().oneshot(request);
    let response = tokio::time::timeout(Duration::from_secs(30), response).await;
    let response = response.expect("no timeout").expect("a response");
    assert_eq!(
        response.headers()["grpc-status"],
        (Code::DeadlineExceeded as i32).to_string()
    );
    assert_eq!(server.denial_count("TimedOut"), 1);
}

#[tokio::test]
async fn flood_of_denied_callers_writes_a_limited_number_of_log_lines() {
    let server = Server::start().await;
    let log = CapturedLog::start();
    let key = WorkloadKey::generate().expect("a key");
    // The first token has another service account than the Pod. The second token is forged.
    for (account, signature) in [("admin", VALID_SIGNATURE), (SERVICE_ACCOUNT, "forged")] {
        let token = mk_token(account, "web", "1", signature);
        for _ in 0..15 {
            let result = server.issue(&token, mk_request(&key, "web.shop")).await;
            result.expect_err("the caller is not the proxy");
        }
    }
    let lines = log.take();
    assert_eq!(
        lines.len(),
        20,
        "10 lines for each of the two reasons: {lines:#?}"
    );
}
