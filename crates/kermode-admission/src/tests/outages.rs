//! Tests of reviews while the API server hangs or is unreachable, and of concurrent reviews. The directory of the
//! webhooks contains the Namespaces `shop` (injection enabled) and `plain` (injection not enabled). It does not contain
//! the Namespace `recent`, the Mesh `new` or any ContainerPatch.

use std::time::Duration;

use futures::future::join_all;
use kermode_crds::annotation::MESH;
use serde_json::Value;

use super::api_server::Mode;
use super::fixture::Fixture;
use super::review::{AdmissionResponse, pod, pod_with, review};

/// Time limit for each response. A test that reaches the limit fails.
const TEST_TIMEOUT: Duration = Duration::from_mins(1);

/// Sends a review of a new Pod to the injection webhook, with a timeout of 300 ms for the webhook.
async fn inject(fixture: &Fixture, namespace: &str, pod: Value) -> AdmissionResponse {
    let response = fixture.send(
        "/inject-sidecar?timeout=300ms",
        review("u-1", namespace, "Pod", pod),
    );
    tokio::time::timeout(TEST_TIMEOUT, response)
        .await
        .expect("a response")
}

#[tokio::test]
async fn objects_in_the_directory_are_not_looked_up() {
    for mode in [Mode::Hangs, Mode::Unreachable] {
        let fixture = Fixture::new(mode).await;
        assert_ne!(inject(&fixture, "shop", pod()).await.applied_to(pod()), pod());
        assert!(inject(&fixture, "plain", pod()).await.allowed);
    }
}

#[tokio::test]
async fn denial_says_that_the_api_server_does_not_respond() {
    let fixture = Fixture::new(Mode::Hangs).await;
    let pod_of_new_mesh = pod_with("annotations", MESH, "new");
    let pod_with_patches = pod_with("annotations", "kuma.io/container-patches", "a,b");
    for (namespace, pod, expected) in [
        ("recent", pod(), "Namespace recent cannot be read"),
        ("shop", pod_of_new_mesh, "Mesh \"new\" not found"),
        (
            "shop",
            pod_with_patches,
            "container patches are missing: [\"a\" \"b\"]",
        ),
    ] {
        let denied = inject(&fixture, namespace, pod).await;
        let text = denied.denial_message();
        assert!(
            text.contains(expected) && text.contains("API server does not respond in time"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn denial_says_that_the_api_server_cannot_be_reached() {
    let fixture = Fixture::new(Mode::Unreachable).await;
    let denied = inject(&fixture, "recent", pod()).await;
    assert!(
        denied
            .denial_message()
            .contains("the API server cannot be reached"),
        "{denied:?}"
    );
    let denied = inject(&fixture, "shop", pod_with("annotations", MESH, "new")).await;
    let text = denied.denial_message();
    assert!(
        text.contains("Mesh \"new\" not found") && text.contains("cannot be reached"),
        "{text}"
    );
}

#[tokio::test]
async fn reviews_that_wait_for_the_api_server_do_not_delay_other_reviews() {
    let fixture = Fixture::new(Mode::Hangs).await;
    let waiting_reviews = (0..40).map(|_| inject(&fixture, "recent", pod()));
    let other_reviews = async {
        let mut connection = fixture.caller.connect_http1().await;
        let body = review("u-2", "shop", "Pod", pod()).to_string();
        for _ in 0..200 {
            let response = connection
                .call(http::Method::POST, "/inject-sidecar", body.clone())
                .await;
            assert!(AdmissionResponse::read(&response).allowed);
        }
    };
    let (responses, ()) = tokio::join!(join_all(waiting_reviews), other_reviews);
    assert!(responses.iter().all(|response| !response.allowed));
}

#[tokio::test]
async fn concurrent_reviews_get_their_own_responses() {
    let fixture = Fixture::new(Mode::Responds).await;
    let clients = (0..32).map(|client| {
        let fixture = &fixture;
        async move {
            let mut connection = fixture.caller.connect_http1().await;
            for call in 0..25 {
                let uid = format!("{client}-{call}");
                let namespace = if call % 2 == 0 { "shop" } else { "plain" };
                let body = review(&uid, namespace, "Pod", pod()).to_string();
                let response = connection
                    .call(http::Method::POST, "/inject-sidecar?timeout=10s", body)
                    .await;
                let response = AdmissionResponse::read(&response);
                assert_eq!(response.uid, uid);
                assert_eq!(response.applied_to(pod()) == pod(), namespace == "plain");
            }
        }
    });
    join_all(clients).await;
}
