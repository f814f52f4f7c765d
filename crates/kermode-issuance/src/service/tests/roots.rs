//! Tests of the streams of roots, over TLS.

use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::Service;
use kermode_identity::{Generation, RotationPlan, Schedule, Term, WorkloadKey};
use kermode_k8s::convert::facts::ServiceFacts;
use kermode_model::view::Touched;
use kermode_model::{MeshName, ObjectKey};
use serde_json::json;
use tonic::Code;

use super::server::{Server, mk_mesh, mk_request};
use super::web_token;
use crate::authentication::tests::{SERVICE_ACCOUNT, VALID_SIGNATURE, mk_token};

/// Time limit of each wait. A test that reaches the limit fails.
const TEST_TIMEOUT: Duration = Duration::from_secs(30);

#[tokio::test]
async fn new_root_is_sent_at_once() {
    let server = Server::start().await;
    let mut stream = server
        .watch_roots(&web_token(), "web.shop")
        .await
        .expect("a stream");
    let first = stream
        .message()
        .await
        .expect("a stream without an error")
        .expect("the roots");
    assert_eq!((first.roots_der.len(), first.signer), (1, 1));

    let mesh = mk_mesh();
    let mtls = mesh.mtls.clone().expect("mTLS");
    let current_plan = server.authorities.get(&mesh.name, "ca-1").await.expect("a CA");
    let now = SystemTime::now();
    let next = Generation {
        number: 2,
        authority: std::sync::Arc::new(
            kermode_identity::Authority::generate(&MeshName::from("default"), now).expect("a CA"),
        ),
        schedule: Some(Schedule::generated_at(now, Term::of(mtls.certificate_lifetime))),
        request: None,
    };
    let extended_plan =
        RotationPlan::new(vec![current_plan.newest().clone(), next]).expect("two generations");
    // Publishing the same roots again sends nothing.
    server.authorities.publish(&mesh.name, &mtls, &current_plan);
    server.authorities.publish(&mesh.name, &mtls, &extended_plan);
    let update = tokio::time::timeout(TEST_TIMEOUT, stream.message())
        .await
        .expect("a message");
    let update = update.expect("a stream without an error").expect("the roots");
    assert_eq!((update.roots_der.len(), update.signer), (2, 1));
    assert!(update.roots_version > first.roots_version);
    assert_eq!(update.roots_der[0], first.roots_der[0]);
}

/// Also applies to a removed service and to changed labels, because the names contain both.
#[tokio::test]
async fn service_that_selects_a_running_pod_changes_the_fingerprint_on_the_stream() {
    let server = Server::start().await;
    let mut stream = server
        .watch_roots(&web_token(), "web.shop")
        .await
        .expect("a stream");
    let mut next_names = async || {
        let message = tokio::time::timeout(TEST_TIMEOUT, stream.message()).await;
        let update = message.expect("a message").expect("a stream without an error");
        update.expect("an update").names
    };
    let issued_names = async || {
        let key = WorkloadKey::generate().expect("a key");
        let issued = server.issue(&web_token(), mk_request(&key, "web.shop")).await;
        issued.expect("a certificate").names
    };
    let first = next_names().await;
    assert_ne!(first, 0);
    assert_eq!(first, issued_names().await);

    // A change of another Dataplane, and a change that keeps the names, send nothing.
    let web = ObjectKey::new("shop", "web");
    let touched = [ObjectKey::new("shop", "other"), web].map(Touched::Dataplane);
    server.index.notify_changed(&touched);
    let service: Service = serde_json::from_value(json!({
        "metadata": {"name": "later", "namespace": "shop"},
        "spec": {"clusterIP": "10.96.0.9", "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]},
    }))
    .expect("a Service");
    let changes = server.index.write().apply_service(ServiceFacts::from(&service));
    server.index.notify_changed(&changes.touched);
    let second = next_names().await;
    assert_ne!(second, first);
    assert_eq!(second, issued_names().await);
}

#[tokio::test]
async fn third_stream_of_a_proxy_is_denied() {
    let server = Server::start().await;
    let watch = async || server.watch_roots(&web_token(), "web.shop").await;
    let (first, second) = (watch().await, watch().await);
    assert!(first.is_ok() && second.is_ok());
    let denied = watch().await.expect_err("above the limit");
    assert_eq!(denied.code(), Code::ResourceExhausted);
    assert_eq!(
        server.metric("roots_streams_refused_total{reason=\"TooManyStreams\"}"),
        1
    );
    assert_eq!(server.metric("roots_streams"), 2);
    let other_token = mk_token(SERVICE_ACCOUNT, "other", "2", VALID_SIGNATURE);
    assert!(server.watch_roots(&other_token, "other.shop").await.is_ok());
    drop(first);
    let reopening = async {
        while watch().await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(TEST_TIMEOUT, reopening)
        .await
        .expect("the permit is released");
}

#[tokio::test]
async fn proxy_that_opens_streams_in_a_loop_is_denied_and_other_proxies_are_not() {
    let server = Server::start().await;
    let mut opened = 0;
    let denied = loop {
        // The stream ends at once.
        match server.watch_roots(&web_token(), "web.shop").await {
            Ok(_) => opened += 1,
            Err(denied) if denied.message().contains("too often") => break denied,
            // The server has not noticed the ends of the last two streams yet.
            Err(denied) => assert!(denied.message().contains("streams of roots are open"), "{denied}"),
        }
        assert!(opened < 100, "the rate is not limited");
    };
    assert_eq!(denied.code(), Code::ResourceExhausted);
    assert_eq!(
        server.metric("roots_streams_refused_total{reason=\"StreamRate\"}"),
        1
    );
    let other_token = mk_token(SERVICE_ACCOUNT, "other", "2", VALID_SIGNATURE);
    assert!(server.watch_roots(&other_token, "other.shop").await.is_ok());
}
