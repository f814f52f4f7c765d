//! Calls of the service, with an authenticator that accepts one token.

use futures::FutureExt as _;
use http::uri::PathAndQuery;
use k8s_openapi::api::core::v1::Pod;
use kermode_k8s::convert::facts::PodFacts;
use kermode_model::Mesh;
use kermode_protocol::rpc::Rpc;
use serde_json::{Value, json};
use tonic::Code;

use super::*;

/// Authenticates the Pod `shop/job` with UID 1 by the token `job`. Authorizes it while the index has its Dataplane.
#[derive(Clone)]
struct JobAuthenticator(SharedIndex);

impl Authenticator for JobAuthenticator {
    fn authenticate<'a>(
        &'a self,
        metadata: &'a http::HeaderMap,
    ) -> BoxFuture<'a, Result<ProxyIdentity, Status>> {
        let is_job = metadata
            .get("authorization")
            .is_some_and(|value| value == "Bearer job");
        let identity = ProxyIdentity {
            key: job_key(),
            service_account: "default".into(),
            uid: "1".into(),
        };
        let result = is_job
            .then_some(identity)
            .ok_or_else(|| Status::unauthenticated("unknown token"));
        Box::pin(async { result })
    }

    fn authorize(&self, identity: &ProxyIdentity) -> Result<(), Status> {
        let is_authorized = self.0.with_pod_identity(&identity.key, |pod| {
            pod.is_some_and(|pod| pod.uid == &*identity.uid)
        });
        is_authorized
            .then_some(())
            .ok_or_else(|| Status::not_found("another Pod"))
    }
}

fn job_key() -> ObjectKey {
    ObjectKey::new("shop", "job")
}

/// Returns a Pod with a classic sidecar that runs, and a container of the application in this state.
fn mk_pod(restart_policy: &str, application: Value) -> Value {
    json!({
        "metadata": {
            "name": "job", "namespace": "shop", "uid": "1",
            "annotations": {"kuma.io/sidecar-injected": "true"},
        },
        "spec": {"restartPolicy": restart_policy, "containers": [{"name": "kuma-sidecar"}, {"name": "app"}]},
        "status": {"podIP": "10.0.0.1", "phase": "Running", "containerStatuses": [
            {"name": "kuma-sidecar", "state": {"running": {}}},
            {"name": "app", "state": application},
        ]},
    })
}

fn running() -> Value {
    json!({"running": {}})
}

fn ended(exit_code: i32) -> Value {
    json!({"terminated": {"exitCode": exit_code}})
}

/// Applies a Pod to the index as the engine does.
fn apply(index: &SharedIndex, pod: &Value) {
    let pod: Pod = serde_json::from_value(pod.clone()).expect("a Pod");
    let changes = index.write().apply_pod(PodFacts::from(&pod));
    index.notify_finished(&changes.sidecars_to_quit);
}

fn mk_service(pod: &Value) -> (CompletionService, SharedIndex) {
    let index = SharedIndex::default();
    index.write().apply_mesh(Mesh::new("default"));
    apply(&index, pod);
    (
        CompletionService::new(JobAuthenticator(index.clone()), index.clone()),
        index,
    )
}

/// Calls the service. Returns the value of the response.
async fn await_completion(service: CompletionService, token: &str) -> Result<bool, Code> {
    let mut request = Request::new(AwaitCompletionRequest {});
    let authorization = format!("Bearer {token}").parse().expect("a header value");
    request.metadata_mut().insert("authorization", authorization);
    let mut client = tonic::client::Grpc::new(Rpc(service));
    let codec = ProstCodec::<AwaitCompletionRequest, AwaitCompletionResponse>::default();
    let path = PathAndQuery::from_static(AWAIT_COMPLETION);
    let response = client.unary(request, path, codec).await;
    response
        .map(|response| response.into_inner().is_finished)
        .map_err(|status| status.code())
}

#[tokio::test]
async fn call_ends_when_all_containers_of_the_application_have_ended() {
    let (service, index) = mk_service(&mk_pod("Never", running()));
    let mut call = Box::pin(await_completion(service, "job"));
    assert_eq!(call.as_mut().now_or_never(), None);
    apply(&index, &mk_pod("Never", ended(1)));
    assert_eq!(call.await, Ok(true));
}

#[tokio::test]
async fn call_does_not_end_with_a_failure_that_is_retried() {
    let (service, index) = mk_service(&mk_pod("OnFailure", running()));
    let mut call = Box::pin(await_completion(service, "job"));
    for application in [ended(1), running()] {
        apply(&index, &mk_pod("OnFailure", application));
        assert_eq!(call.as_mut().now_or_never(), None);
    }
    apply(&index, &mk_pod("OnFailure", ended(0)));
    assert_eq!(call.await, Ok(true));
}

#[tokio::test]
async fn call_after_the_end_of_the_application_gets_a_response_at_once() {
    let (service, _index) = mk_service(&mk_pod("OnFailure", ended(0)));
    assert_eq!(await_completion(service, "job").await, Ok(true));
}

#[tokio::test]
async fn application_that_is_always_restarted_never_ends() {
    let (service, _index) = mk_service(&mk_pod("Always", ended(0)));
    assert_eq!(await_completion(service, "job").await, Ok(false));
}

#[tokio::test]
async fn only_the_authenticated_pod_learns_the_end_of_its_application() {
    let (service, index) = mk_service(&mk_pod("Never", ended(0)));
    assert_eq!(
        await_completion(service.clone(), "other").await,
        Err(Code::Unauthenticated)
    );
    let mut replacement = mk_pod("Never", ended(0));
    replacement["metadata"]["uid"] = json!("2");
    apply(&index, &replacement);
    assert_eq!(await_completion(service, "job").await, Err(Code::NotFound));
}

#[tokio::test]
async fn call_ends_with_its_pod() {
    let (service, index) = mk_service(&mk_pod("Never", running()));
    let mut call = Box::pin(await_completion(service, "job"));
    assert_eq!(call.as_mut().now_or_never(), None);
    let changes = index.write().remove_pod(&job_key());
    index.notify_changed(&changes.touched);
    assert_eq!(call.await, Err(Code::NotFound));
}

#[tokio::test]
async fn call_above_the_limit_of_a_proxy_supersedes_its_oldest_call() {
    let (service, _index) = mk_service(&mk_pod("Never", running()));
    let mut calls: Vec<_> = (0..=MAX_CALLS_PER_PROXY)
        .map(|_| Box::pin(await_completion(service.clone(), "job")))
        .collect();
    for call in &mut calls {
        assert_eq!(call.as_mut().now_or_never(), None);
    }
    assert_eq!(calls[0].as_mut().now_or_never(), Some(Err(Code::Aborted)));
    assert_eq!(calls[1].as_mut().now_or_never(), None);
    drop(calls);
    assert_eq!(service.inner.calls.key_count(), 0);
}
