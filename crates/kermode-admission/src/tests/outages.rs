//! An API server that is slow or away: an answer comes within the time that the caller waits, and says what is wrong.

use std::time::Duration;

use futures::future::join_all;
use kermode_crds::annotation::MESH;
use serde_json::Value;

use super::api_server::Mood;
use super::review::{AdmissionResponse, pod, pod_with, review};
use super::world::World;

/// Far above what the answers below may take, far below what a test runner waits.
const NEVER: Duration = Duration::from_mins(1);

async fn ask(world: &World, namespace: &str, pod: Value) -> AdmissionResponse {
    let ask = world.ask(
        "/inject-sidecar?timeout=300ms",
        review("u-1", namespace, "Pod", pod),
    );
    tokio::time::timeout(NEVER, ask).await.expect("an answer")
}

#[tokio::test]
async fn what_memory_has_needs_no_api_server() {
    for mood in [Mood::Hangs, Mood::Unreachable] {
        let world = World::new(mood).await;
        assert_ne!(ask(&world, "shop", pod()).await.applied_to(pod()), pod());
        assert!(ask(&world, "plain", pod()).await.allowed);
    }
}

#[tokio::test]
async fn a_silent_api_server_is_named_in_the_refusal() {
    let world = World::new(Mood::Hangs).await;
    let mesh = pod_with("annotations", MESH, "new");
    let patch = pod_with("annotations", "kuma.io/container-patches", "a,b");
    for (namespace, pod, what) in [
        ("young", pod(), "Namespace young cannot be read"),
        ("shop", mesh, "Mesh \"new\" not found"),
        ("shop", patch, "container patches are missing: [\"a\" \"b\"]"),
    ] {
        let refused = ask(&world, namespace, pod).await;
        let text = refused.refusal();
        assert!(
            text.contains(what) && text.contains("API server does not answer in time"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn an_unreachable_api_server_is_named_in_the_refusal() {
    let world = World::new(Mood::Unreachable).await;
    let refused = ask(&world, "young", pod()).await;
    assert!(
        refused.refusal().contains("the API server cannot be reached"),
        "{refused:?}"
    );
    let refused = ask(&world, "shop", pod_with("annotations", MESH, "new")).await;
    let text = refused.refusal();
    assert!(
        text.contains("Mesh \"new\" not found") && text.contains("cannot be reached"),
        "{text}"
    );
}

#[tokio::test]
async fn reviews_that_wait_for_the_api_server_do_not_hold_up_others() {
    let world = World::new(Mood::Hangs).await;
    let waiting = (0..40).map(|_| ask(&world, "young", pod()));
    let others = async {
        let mut connection = world.caller.http1().await;
        let body = review("u-2", "shop", "Pod", pod()).to_string();
        for _ in 0..200 {
            let answer = connection
                .call(http::Method::POST, "/inject-sidecar", body.clone())
                .await;
            assert!(AdmissionResponse::read(&answer).allowed);
        }
    };
    let (refused, ()) = tokio::join!(join_all(waiting), others);
    assert!(refused.iter().all(|response| !response.allowed));
}

#[tokio::test]
async fn concurrent_reviews_get_their_own_answers() {
    let world = World::new(Mood::Answers).await;
    let callers = (0..32).map(|caller| {
        let world = &world;
        async move {
            let mut connection = world.caller.http1().await;
            for call in 0..25 {
                let uid = format!("{caller}-{call}");
                let namespace = if call % 2 == 0 { "shop" } else { "plain" };
                let body = review(&uid, namespace, "Pod", pod()).to_string();
                let answer = connection
                    .call(http::Method::POST, "/inject-sidecar?timeout=10s", body)
                    .await;
                let response = AdmissionResponse::read(&answer);
                assert_eq!(response.uid, uid);
                assert_eq!(response.applied_to(pod()) == pod(), namespace == "plain");
            }
        }
    });
    join_all(callers).await;
}
