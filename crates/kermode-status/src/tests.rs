//! Tests of the status that a replica writes after a proxy has disconnected, on a simulated API server with one
//! Dataplane.

use http::{Request, Response, StatusCode};
use k8s_openapi::api::core::v1::Pod;
use kermode_crds::condition;
use kermode_k8s::controller::writer::ObservedDataplane;
use kermode_k8s::convert::facts::PodFacts;
use kermode_k8s::index::Index;
use kermode_protocol::ads::Versions;
use kube::client::Body;
use kube::core::DynamicObject;
use serde_json::{Value, json};

use super::*;

/// Response of the simulated API server to the next requests.
type NextResponse = Arc<Mutex<(StatusCode, Value)>>;

/// Proxy statuses of the replica `cp-1`, and the response of the simulated API server.
struct Fixture {
    statuses: ProxyStatuses,
    next_response: NextResponse,
}

impl Fixture {
    /// Creates statuses with the connected proxy `shop/web`.
    fn with_connected_proxy() -> Self {
        let next_response = NextResponse::new(Mutex::new(mk_dataplane_response("cp-1")));
        let response = next_response.clone();
        let service = tower::service_fn(move |_: Request<Body>| {
            let (status, object) = response.lock().clone();
            let body = Body::from(object.to_string().into_bytes());
            std::future::ready(Response::builder().status(status).body(body))
        });
        let index = SharedIndex::new(Index::default());
        index.write().apply_pod(mk_pod());
        let statuses = ProxyStatuses::new(Client::new(service, "default"), index, "cp-1");
        let fixture = Self {
            statuses,
            next_response,
        };
        fixture.report(1, Report::Connected(Versions::default(), Arc::default()));
        fixture
    }

    fn report(&self, stream: u64, report: Report<'_>) {
        let proxy = ProxyId {
            mesh: "default".into(),
            key: web(),
        };
        self.statuses.report(&proxy, stream, report);
    }

    fn respond_with(&self, response: (StatusCode, Value)) {
        *self.next_response.lock() = response;
    }

    async fn desired_status(&self) -> kube::Result<Option<DesiredStatus>> {
        self.statuses.state.desired_status(&web()).await
    }

    /// Returns the status of the condition `Connected` that the writer has to write, or `None` if it has to write
    /// nothing.
    async fn connected_condition_to_write(&self) -> Option<String> {
        let desired = self.desired_status().await.expect("the Dataplane is read")?;
        let mut conditions = desired.status.conditions.into_iter();
        let connected = conditions.find(|condition| condition.type_ == condition::CONNECTED);
        Some(connected.expect("the condition Connected").status)
    }

    /// Reports that the last desired status was written.
    fn finish_write(&self) {
        let (_, object) = mk_dataplane_response("");
        let object: DynamicObject = serde_json::from_value(object).expect("a Dataplane");
        let outcome = WriteOutcome::Written(ObservedDataplane::new(&object));
        self.statuses.state.on_write_outcome(&web(), outcome);
    }

    fn is_proxy_known(&self) -> bool {
        self.statuses.state.proxies().contains_key(&web())
    }
}

fn web() -> ObjectKey {
    ObjectKey::new("shop", "web")
}

fn mk_pod() -> PodFacts {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {
            "name": "web", "namespace": "shop", "uid": "1",
            "annotations": {"kuma.io/sidecar-injected": "true"},
        },
        "spec": {"containers": [
            {"name": "app", "ports": [{"containerPort": 8080}]},
            {"name": "kuma-sidecar"},
        ]},
        "status": {"podIP": "10.0.0.1", "phase": "Running"},
    }))
    .expect("a Pod");
    PodFacts::from(&pod)
}

/// Makes a response with the Dataplane `shop/web`. Its status says that `replica` serves the sidecar.
fn mk_dataplane_response(replica: &str) -> (StatusCode, Value) {
    let dataplane = json!({
        "apiVersion": "kuma.io/v1alpha1", "kind": "Dataplane", "mesh": "default",
        "metadata": {"name": "web", "namespace": "shop", "resourceVersion": "7"},
        "status": {"sidecar": {"controlPlane": replica}},
    });
    (StatusCode::OK, dataplane)
}

fn mk_failure() -> (StatusCode, Value) {
    let failure = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 500, "message": "etcdserver: request timed out",
    });
    (StatusCode::INTERNAL_SERVER_ERROR, failure)
}

#[tokio::test]
async fn disconnection_is_written_after_a_failed_read_and_a_failed_write() {
    let fixture = Fixture::with_connected_proxy();
    fixture.report(1, Report::Disconnected);
    fixture.respond_with(mk_failure());
    fixture
        .desired_status()
        .await
        .expect_err("the read of the Dataplane fails");
    fixture.respond_with(mk_dataplane_response("cp-1"));
    assert_eq!(
        fixture.connected_condition_to_write().await.as_deref(),
        Some("False")
    );
    // No write was reported as done, so the same status is still to be written, as after a failed write.
    assert_eq!(
        fixture.connected_condition_to_write().await.as_deref(),
        Some("False")
    );
    fixture.finish_write();
    assert!(!fixture.is_proxy_known(), "the status was written");
}

#[tokio::test]
async fn status_reported_during_a_write_is_written_by_another_write() {
    let fixture = Fixture::with_connected_proxy();
    assert_eq!(
        fixture.connected_condition_to_write().await.as_deref(),
        Some("True")
    );
    fixture.report(1, Report::Disconnected);
    fixture.finish_write();
    assert_eq!(
        fixture.connected_condition_to_write().await.as_deref(),
        Some("False")
    );
    fixture.report(2, Report::Connected(Versions::default(), Arc::default()));
    fixture.report(2, Report::Disconnected);
    fixture.finish_write();
    assert_eq!(
        fixture.connected_condition_to_write().await.as_deref(),
        Some("False")
    );
    fixture.finish_write();
    assert!(!fixture.is_proxy_known());
}

#[tokio::test]
async fn disconnection_is_not_written_over_the_status_of_another_replica() {
    let fixture = Fixture::with_connected_proxy();
    fixture.report(1, Report::Disconnected);
    fixture.respond_with(mk_dataplane_response("cp-2"));
    assert_eq!(fixture.connected_condition_to_write().await, None);
    assert!(!fixture.is_proxy_known());
}
