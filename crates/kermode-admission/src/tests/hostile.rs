//! Tests of invalid calls: other methods and paths, forged reviews, and bodies that are truncated, huge, deeply nested,
//! no AdmissionReview, or changed at random.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::Request;
use futures::{StreamExt, stream};
use http::Method;
use http_body_util::BodyExt;
use kermode_crds::annotation::MESH;
use proptest::prelude::*;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::api_server::{ApiServer, Mode};
use super::caller::CallResponse;
use super::fixture::{Fixture, REPLICA_SET_PATH, replica_set_metadata, webhooks};
use super::review::{AdmissionResponse, pod, pod_with, review, without_owners};
use crate::memory::MAX_BODY;
use crate::{Metrics, router};

const PATHS: [&str; 3] = [
    "/inject-sidecar",
    "/validate-kuma-io-v1alpha1",
    "/validate-workloads",
];

/// Returns a review whose object is an empty list in `levels - 1` other lists.
fn nested_review(levels: usize) -> String {
    let inside = "[".repeat(levels) + &"]".repeat(levels);
    format!(
        r#"{{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{{"uid":"u","object":{inside}}}}}"#
    )
}

#[tokio::test]
async fn invalid_review_is_rejected_and_the_connection_stays_usable() {
    let fixture = Fixture::new(Mode::Responds).await;
    let valid = review("u-1", "shop", "Pod", pod()).to_string();
    let mut beta = review("u-1", "shop", "Pod", pod());
    beta["apiVersion"] = "admission.k8s.io/v1beta1".into();
    for path in PATHS {
        let mut connection = fixture.caller.connect_http1().await;
        for (body, expected) in [
            (String::new(), "not an AdmissionReview"),
            (valid[..valid.len() / 2].to_owned(), "not an AdmissionReview"),
            (nested_review(100_000), "recursion limit"),
            (pod().to_string(), "a Pod of v1, not an AdmissionReview"),
            (
                beta.to_string(),
                "of admission.k8s.io/v1beta1, not an AdmissionReview of admission.k8s.io/v1",
            ),
            (
                json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}).to_string(),
                "no request",
            ),
        ] {
            let response = connection.call(Method::POST, path, body).await;
            assert_eq!(response.status, 400, "{response:?}");
            assert!(
                response.text.contains(expected),
                "{expected:?} is missing in {response:?}"
            );
        }
        assert_eq!(
            connection.call(Method::POST, path, valid.clone()).await.status,
            200
        );
    }
}

#[tokio::test]
async fn other_methods_and_paths_are_rejected() {
    let fixture = Fixture::new(Mode::Responds).await;
    let mut connection = fixture.caller.connect_http1().await;
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
async fn huge_body_with_or_without_content_length_is_rejected() {
    let fixture = Fixture::new(Mode::Responds).await;
    let piece = Bytes::from(vec![b' '; 64 * 1024]);
    let pieces = MAX_BODY / piece.len() + 1;
    let mut connection = fixture.caller.connect_http2().await;
    let with_length = Bytes::from(piece.repeat(pieces));
    let without_length = stream::iter(std::iter::repeat_n(piece, pieces)).map(Ok::<_, std::io::Error>);
    for body in [Body::from(with_length), Body::from_stream(without_length)] {
        let response = connection.call(Method::POST, PATHS[0], body).await;
        assert_eq!(
            (response.status, response.text.contains("larger than")),
            (413, true),
            "{response:?}"
        );
    }
}

#[tokio::test]
async fn small_body_with_too_many_json_elements_is_rejected() {
    let fixture = Fixture::new(Mode::Responds).await;
    let body = format!("[{}", r#"{"":0},"#.repeat(200_000));
    let response = fixture.caller.post(PATHS[0], body).await;
    assert_eq!(
        (response.status, response.text.contains("too many elements")),
        (413, true),
        "{response:?}"
    );
}

#[tokio::test]
async fn incomplete_body_times_out() {
    let fixture = Fixture::new(Mode::Responds).await;
    let incomplete =
        stream::once(async { Ok::<_, std::io::Error>(Bytes::from_static(b"{")) }).chain(stream::pending());
    let call = fixture
        .caller
        .post("/inject-sidecar?timeout=100ms", Body::from_stream(incomplete));
    let response = tokio::time::timeout(Duration::from_mins(1), call)
        .await
        .expect("a response");
    assert_eq!(
        (response.status, response.text.contains("did not arrive in time")),
        (503, true),
        "{response:?}"
    );
}

#[tokio::test]
async fn denial_of_a_malformed_pod_names_the_field() {
    let fixture = Fixture::new(Mode::Responds).await;
    for (pod, expected) in [
        (Value::Null, "expected an object"),
        (json!([]), "expected an object"),
        (json!({"spec": {}}), "/spec/containers"),
        (json!({"spec": {"containers": [1]}}), "/spec/containers/0"),
        (
            json!({"metadata": {"labels": {"a/b": 1}}, "spec": {"containers": []}}),
            "/metadata/labels/a~1b",
        ),
    ] {
        let denied = fixture.inject("shop", pod).await;
        assert!(denied.denial_message().contains(expected), "{denied:?}");
    }
}

/// Calls a webhook without a network connection.
fn call_in_process(path: &str, body: Vec<u8>) -> CallResponse {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let (api_server, _events) = ApiServer::new(Mode::Responds);
        let request = Request::post(path).body(Body::from(body)).expect("a request");
        let response = router(webhooks(&api_server, Metrics::default()))
            .oneshot(request)
            .await
            .expect("a response");
        let status = response.status().as_u16();
        let text = response.into_body().collect().await.expect("a body").to_bytes();
        let text = String::from_utf8(text.to_vec()).expect("text");
        CallResponse { status, text }
    })
}

/// Makes a Pod of a ReplicaSet. The Pod is denied because its Mesh is missing.
fn denied_pod(owner: &str, owner_uid: &str) -> Value {
    let mut denied = pod_with("annotations", MESH, "missing");
    denied["metadata"]["ownerReferences"][0]["name"] = owner.into();
    denied["metadata"]["ownerReferences"][0]["uid"] = owner_uid.into();
    denied
}

#[tokio::test(start_paused = true)]
async fn forged_reviews_cause_no_events_and_do_not_suppress_real_events() {
    let (api_server, mut events) = ApiServer::new(Mode::Responds);
    api_server.put(REPLICA_SET_PATH, replica_set_metadata("rs-1"));
    let webhooks = router(webhooks(&api_server, Metrics::default()));
    let send = async |pod: Value| {
        let request = Request::post("/inject-sidecar")
            .body(Body::from(review("u-1", "shop", "Pod", pod).to_string()))
            .expect("a request");
        let response = webhooks.clone().oneshot(request).await.expect("a response");
        assert_eq!(response.status(), 200);
    };
    for number in 0..200 {
        send(denied_pod(&format!("forged-{number}"), "u")).await;
        // The ReplicaSet exists, but has another UID.
        send(denied_pod("web-5d9c7b8f6d", &format!("forged-{number}"))).await;
    }
    send(denied_pod("web-5d9c7b8f6d", "rs-1")).await;
    let event = events.recv().await.expect("an Event");
    assert_eq!(event["regarding"]["uid"], "rs-1");
    // The next Event is about the next real review, because forged reviews cause no Events.
    send(without_owners(denied_pod("web-5d9c7b8f6d", "rs-1"))).await;
    let event = events.recv().await.expect("an Event");
    assert_eq!(
        (&event["regarding"]["kind"], &event["regarding"]["name"]),
        (&json!("Namespace"), &json!("shop"))
    );
}

/// Collects the JSON pointers to all values of a document.
fn collect_pointers(path: &str, value: &Value, found: &mut Vec<String>) {
    found.push(path.to_owned());
    match value {
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                collect_pointers(&format!("{path}/{index}"), item, found);
            }
        }
        Value::Object(members) => {
            for (key, member) in members {
                let key = key.replace('~', "~0").replace('/', "~1");
                collect_pointers(&format!("{path}/{key}"), member, found);
            }
        }
        _ => {}
    }
}

/// Returns a Pod with many injection settings, and with probes of every form on both kinds of long-running containers.
fn rich_pod() -> Value {
    let probes = [
        json!({"httpGet": {"path": "/ready", "port": "http", "scheme": "HTTPS"}}),
        json!({"tcpSocket": {"port": 80}}),
        json!({"grpc": {"port": 80, "service": "s"}}),
    ];
    let mut pod = pod();
    pod["metadata"]["annotations"] = json!({
        "k8s.v1.cni.cncf.io/networks": "[{\"name\": \"a\"}]",
        "kuma.io/mesh": "default",
        "kuma.io/sidecar-drain-time": "30s",
        "kuma.io/sidecar-env-vars": "A=1;B=2",
        "kuma.io/container-patches": "a",
        "traffic.kuma.io/exclude-inbound-ports": "1,2",
    });
    let container = &mut pod["spec"]["containers"][0];
    container["ports"] = json!([{"name": "http", "containerPort": 80}]);
    for (field, probe) in ["readinessProbe", "livenessProbe", "startupProbe"]
        .into_iter()
        .zip(probes)
    {
        container[field] = probe;
    }
    let mut helper = container.clone();
    helper["name"] = "helper".into();
    helper["restartPolicy"] = "Always".into();
    helper["lifecycle"] = json!({"preStop": {"httpGet": {"path": "/stop", "port": 80}}});
    pod["spec"]["initContainers"] = json!([helper]);
    pod["spec"]["volumes"] = json!([{"name": "v", "emptyDir": {}}]);
    pod["spec"]["imagePullSecrets"] = json!([{"name": "registry"}]);
    pod["spec"]["resources"] = json!({"limits": {"cpu": "1", "memory": "1Gi"}});
    pod
}

/// Returns reviews of a Pod, of a Deployment of such Pods, and of a Namespace.
fn valid_reviews() -> [Value; 3] {
    let pod = rich_pod();
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"template": {"metadata": pod["metadata"], "spec": pod["spec"]}},
    });
    let namespace = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {
            "name": "shop",
            "labels": {"kuma.io/sidecar-injection": "enabled", "pod-security.kubernetes.io/enforce": "baseline"},
            "annotations": {"kuma.io/mesh": "default"},
        },
    });
    [
        review("u-1", "shop", "Pod", pod),
        review("u-1", "shop", "Deployment", deployment),
        review("u-1", "shop", "Namespace", namespace),
    ]
}

/// Generates reviews of objects with many injection settings. One value of each review is replaced by a random value.
fn mutated_review() -> impl Strategy<Value = Value> {
    let reviews = valid_reviews();
    let mut pointers = Vec::new();
    for (index, review) in reviews.iter().enumerate() {
        let mut of_review = Vec::new();
        collect_pointers("", review, &mut of_review);
        pointers.extend(of_review.into_iter().map(|pointer| (index, pointer)));
    }
    let replacement = prop_oneof![
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
    (prop::sample::select(pointers), replacement).prop_map(move |((index, pointer), replacement)| {
        let mut mutated = reviews[index].clone();
        if let Some(value) = mutated.pointer_mut(&pointer) {
            *value = replacement;
        }
        mutated
    })
}

/// Asserts that the response is an AdmissionReview that the API server can read, or an HTTP error with a text.
fn assert_valid(response: &CallResponse) {
    match response.status {
        200 => {
            AdmissionResponse::read(response);
        }
        400 | 413 => assert!(!response.text.is_empty()),
        _ => panic!("{response:?}"),
    }
}

proptest! {
    #[test]
    fn review_with_a_random_value_gets_a_valid_response(
        review in mutated_review(),
        path in prop::sample::select(&PATHS[..]),
    ) {
        assert_valid(&call_in_process(path, review.to_string().into_bytes()));
    }

    #[test]
    fn review_with_random_bytes_gets_a_valid_response(
        noise in prop::collection::vec(any::<u8>(), 0..20),
        at in any::<prop::sample::Index>(),
        path in prop::sample::select(&PATHS[..]),
    ) {
        let mut body = review("u-1", "shop", "Pod", pod()).to_string().into_bytes();
        let at = at.index(body.len());
        let end = (at + noise.len()).min(body.len());
        body.splice(at..end, noise);
        assert_valid(&call_in_process(path, body));
    }
}
