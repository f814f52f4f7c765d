//! Questions that are none: truncated, huge, deep, of another kind, cut off, or mutated at random.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::Request;
use futures::{StreamExt, stream};
use http::Method;
use http_body_util::BodyExt;
use proptest::prelude::*;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::api_server::{ApiServer, Mood};
use super::caller::Answer;
use super::review::{AdmissionResponse, pod, review};
use super::world::{World, webhooks};
use crate::memory::MAX_BODY;
use crate::{Metrics, router};

const PATHS: [&str; 3] = [
    "/inject-sidecar",
    "/validate-kuma-io-v1alpha1",
    "/validate-workloads",
];

fn deep(levels: usize) -> String {
    let inside = "[".repeat(levels) + &"]".repeat(levels);
    format!(
        r#"{{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{{"uid":"u","object":{inside}}}}}"#
    )
}

#[tokio::test]
async fn what_is_no_review_is_told_so_and_the_next_one_is_answered() {
    let world = World::new(Mood::Answers).await;
    let whole = review("u-1", "shop", "Pod", pod()).to_string();
    let mut old = review("u-1", "shop", "Pod", pod());
    old["apiVersion"] = "admission.k8s.io/v1beta1".into();
    for path in PATHS {
        let mut connection = world.caller.http1().await;
        for (body, says) in [
            (String::new(), "not an AdmissionReview"),
            (whole[..whole.len() / 2].to_owned(), "not an AdmissionReview"),
            (deep(100_000), "recursion limit"),
            (pod().to_string(), "a Pod of v1, not an AdmissionReview"),
            (
                old.to_string(),
                "of admission.k8s.io/v1beta1, not an AdmissionReview of admission.k8s.io/v1",
            ),
            (
                json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}).to_string(),
                "no request",
            ),
        ] {
            let answer = connection.call(Method::POST, path, body).await;
            assert_eq!(answer.status, 400, "{answer:?}");
            assert!(answer.text.contains(says), "{says:?} is missing in {answer:?}");
        }
        assert_eq!(
            connection.call(Method::POST, path, whole.clone()).await.status,
            200
        );
    }
}

#[tokio::test]
async fn another_method_or_path_is_told_so() {
    let world = World::new(Mood::Answers).await;
    let mut connection = world.caller.http1().await;
    for path in PATHS {
        for method in [Method::GET, Method::PUT, Method::DELETE] {
            assert_eq!(connection.call(method, path, Body::empty()).await.status, 405);
        }
    }
    assert_eq!(
        connection.call(Method::POST, "/", Body::empty()).await.status,
        404
    );
}

#[tokio::test]
async fn a_huge_body_is_refused_whether_or_not_its_length_is_stated() {
    let world = World::new(Mood::Answers).await;
    let piece = Bytes::from(vec![b' '; 64 * 1024]);
    let pieces = MAX_BODY / piece.len() + 1;
    let mut connection = world.caller.http2().await;
    let stated = Bytes::from(piece.repeat(pieces));
    let unstated = stream::iter(std::iter::repeat_n(piece, pieces)).map(Ok::<_, std::io::Error>);
    for body in [Body::from(stated), Body::from_stream(unstated)] {
        let answer = connection.call(Method::POST, PATHS[0], body).await;
        assert_eq!(
            (answer.status, answer.text.contains("larger than")),
            (413, true),
            "{answer:?}"
        );
    }
}

#[tokio::test]
async fn a_small_body_that_would_become_a_huge_document_is_refused() {
    let world = World::new(Mood::Answers).await;
    let body = format!("[{}", r#"{"":0},"#.repeat(200_000));
    let answer = world.caller.post(PATHS[0], body).await;
    assert_eq!(
        (answer.status, answer.text.contains("too many elements")),
        (413, true),
        "{answer:?}"
    );
}

#[tokio::test]
async fn a_body_that_never_ends_is_given_up() {
    let world = World::new(Mood::Answers).await;
    let endless =
        stream::once(async { Ok::<_, std::io::Error>(Bytes::from_static(b"{")) }).chain(stream::pending());
    let call = world
        .caller
        .post("/inject-sidecar?timeout=100ms", Body::from_stream(endless));
    let answer = tokio::time::timeout(Duration::from_mins(1), call)
        .await
        .expect("an answer");
    assert_eq!(
        (answer.status, answer.text.contains("did not arrive in time")),
        (503, true),
        "{answer:?}"
    );
}

#[tokio::test]
async fn shapes_that_no_api_server_sends_are_refused_with_the_field() {
    let world = World::new(Mood::Answers).await;
    for (pod, says) in [
        (Value::Null, "expected an object"),
        (json!([]), "expected an object"),
        (json!({"spec": {}}), "/spec/containers"),
        (json!({"spec": {"containers": [1]}}), "/spec/containers/0"),
        (
            json!({"metadata": {"labels": {"a/b": 1}}, "spec": {"containers": []}}),
            "/metadata/labels/a~1b",
        ),
    ] {
        let refused = world.inject("shop", pod).await;
        assert!(refused.refusal().contains(says), "{refused:?}");
    }
}

fn ask(path: &str, body: Vec<u8>) -> Answer {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let (api_server, _events) = ApiServer::new(Mood::Answers);
        let request = Request::post(path).body(Body::from(body)).expect("a request");
        let response = router(webhooks(&api_server, Metrics::default()))
            .oneshot(request)
            .await
            .expect("an answer");
        let status = response.status().as_u16();
        let text = response.into_body().collect().await.expect("a body").to_bytes();
        let text = String::from_utf8(text.to_vec()).expect("text");
        Answer { status, text }
    })
}

/// JSON pointers to everything in a document.
fn places(path: &str, value: &Value, found: &mut Vec<String>) {
    found.push(path.to_owned());
    match value {
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                places(&format!("{path}/{index}"), item, found);
            }
        }
        Value::Object(members) => {
            for (key, member) in members {
                let key = key.replace('~', "~0").replace('/', "~1");
                places(&format!("{path}/{key}"), member, found);
            }
        }
        _ => {}
    }
}

/// A review of a Pod that exercises more of injection, one value of which is another.
fn mutated() -> impl Strategy<Value = Value> {
    let probe = json!({"httpGet": {"path": "/ready", "port": "http"}});
    let mut pod = pod();
    pod["metadata"]["annotations"] = json!({
        "kuma.io/mesh": "default",
        "kuma.io/sidecar-drain-time": "30s",
        "kuma.io/sidecar-env-vars": "A=1;B=2",
        "kuma.io/container-patches": "a",
        "traffic.kuma.io/exclude-inbound-ports": "1,2",
    });
    pod["spec"]["containers"][0]["ports"] = json!([{"name": "http", "containerPort": 80}]);
    pod["spec"]["containers"][0]["readinessProbe"] = probe;
    pod["spec"]["volumes"] = json!([{"name": "v", "emptyDir": {}}]);
    let whole = review("u-1", "shop", "Pod", pod);
    let mut found = Vec::new();
    places("", &whole, &mut found);
    let other = prop_oneof![
        Just(Value::Null),
        Just(json!([])),
        Just(json!({})),
        Just(json!([{"name": 1}, null])),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,20}".prop_map(Value::from),
        "[a-z0-9=;,./:-]{0,40}".prop_map(Value::from),
        Just(Value::from("x".repeat(100_000))),
    ];
    (prop::sample::select(found), other).prop_map(move |(place, other)| {
        let mut mutated = whole.clone();
        if let Some(value) = mutated.pointer_mut(&place) {
            *value = other;
        }
        mutated
    })
}

/// An answer is one that the API server can read.
fn check(answer: &Answer) {
    match answer.status {
        200 => {
            AdmissionResponse::read(answer);
        }
        400 | 413 => assert!(!answer.text.is_empty()),
        _ => panic!("{answer:?}"),
    }
}

proptest! {
    #[test]
    fn any_value_anywhere_gets_a_valid_answer(review in mutated(), path in prop::sample::select(&PATHS[..])) {
        check(&ask(path, review.to_string().into_bytes()));
    }

    #[test]
    fn any_bytes_in_any_place_get_a_valid_answer(
        noise in prop::collection::vec(any::<u8>(), 0..20),
        at in any::<prop::sample::Index>(),
        path in prop::sample::select(&PATHS[..]),
    ) {
        let mut body = review("u-1", "shop", "Pod", pod()).to_string().into_bytes();
        let at = at.index(body.len());
        let end = (at + noise.len()).min(body.len());
        body.splice(at..end, noise);
        check(&ask(path, body));
    }
}
