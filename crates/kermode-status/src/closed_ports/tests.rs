//! Reports about closed ports, with an authenticator that accepts one token, and a simulated API server that receives
//! the Events.

use http::StatusCode;
use http::uri::PathAndQuery;
use http_body_util::BodyExt as _;
use k8s_openapi::api::core::v1::Pod;
use kermode_k8s::convert::facts::PodFacts;
use kermode_k8s::index::Index;
use kermode_model::{CertificateAuthority, Mtls, MtlsMode, ObjectKey};
use kermode_protocol::rpc::Rpc;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tonic::Code;

use super::*;

/// Authenticates the Pod `shop/web` with UID 1 by the token `web`.
struct WebAuthenticator;

impl Authenticator for WebAuthenticator {
    fn authenticate<'a>(
        &'a self,
        metadata: &'a http::HeaderMap,
    ) -> BoxFuture<'a, Result<ProxyIdentity, Status>> {
        let is_web = metadata
            .get("authorization")
            .is_some_and(|value| value == "Bearer web");
        let identity = ProxyIdentity {
            key: ObjectKey::new("shop", "web"),
            service_account: "web".into(),
            uid: "1".into(),
        };
        let result = is_web
            .then_some(identity)
            .ok_or_else(|| Status::unauthenticated("unknown token"));
        Box::pin(async { result })
    }

    fn authorize(&self, _: &ProxyIdentity) -> Result<(), Status> {
        Ok(())
    }
}

/// The service, and the Events that the API server receives.
struct Fixture {
    service: ClosedPortService,
    events: mpsc::UnboundedReceiver<Value>,
}

impl Fixture {
    /// Creates a service whose mesh has the given settings. The Pod has an inbound at port 8080.
    fn new(mtls: Option<MtlsMode>, inbound_passthrough: Option<bool>) -> Self {
        let (sender, events) = mpsc::unbounded_channel();
        let api_server = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            let sender = sender.clone();
            async move {
                let body = request.into_body().collect().await?.to_bytes();
                let event: Value = serde_json::from_slice(&body).expect("an Event");
                sender.send(event.clone()).expect("the fixture exists");
                let response = http::Response::builder().status(StatusCode::CREATED);
                Ok::<_, kube::Error>(response.body(kube::client::Body::from(body)).expect("a response"))
            }
        });
        let client = kube::Client::new(api_server, "default");
        let mut mesh = Mesh::new("default");
        mesh.inbound_passthrough = inbound_passthrough;
        mesh.mtls = mtls.map(|mode| Mtls {
            backend: "ca-1".to_owned(),
            mode,
            authority: CertificateAuthority::Builtin,
            certificate_lifetime: std::time::Duration::from_hours(24),
        });
        let index = SharedIndex::new(Index::default());
        index.write().apply_mesh(mesh);
        index.write().apply_pod(mk_pod());
        let service = ClosedPortService::new(
            WebAuthenticator,
            index,
            EventRecorder::start(client, None),
            ClosedPortMetrics::default(),
        );
        Self { service, events }
    }

    /// Reports a port. Returns whether the port is closed according to the service.
    async fn report_as(&self, token: &str, port: u32) -> Result<bool, Code> {
        let mut request = Request::new(ReportClosedPortRequest { port });
        let authorization = format!("Bearer {token}").parse().expect("a header value");
        request.metadata_mut().insert("authorization", authorization);
        let mut client = tonic::client::Grpc::new(Rpc(self.service.clone()));
        let codec = ProstCodec::<ReportClosedPortRequest, ReportClosedPortResponse>::default();
        let path = PathAndQuery::from_static(REPORT_CLOSED_PORT);
        let response = client.unary(request, path, codec).await;
        response
            .map(|response| response.into_inner().is_closed)
            .map_err(|status| status.code())
    }

    fn count(&self, result: ReportResult) -> u64 {
        let reports = &self.service.inner.metrics.reports;
        reports.get_or_create(&ReportLabels { result }).get()
    }
}

fn mk_pod() -> PodFacts {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {
            "name": "web", "namespace": "shop", "uid": "1",
            "annotations": {
                "kuma.io/sidecar-injected": "true",
                "kuma.io/transparent-proxying": "enabled",
                "kuma.io/transparent-proxying-inbound-port": "15006",
                "kuma.io/transparent-proxying-outbound-port": "15001",
            },
        },
        "spec": {"containers": [{"name": "app"}, {"name": "kuma-sidecar"}]},
        "status": {"podIP": "10.0.0.1", "phase": "Running"},
    }))
    .expect("a Pod");
    PodFacts::from(&pod)
}

#[tokio::test]
async fn event_about_the_pod_names_port_mode_and_remedies() {
    let mut fixture = Fixture::new(Some(MtlsMode::Strict), None);
    assert_eq!(fixture.report_as("web", 8081).await, Ok(true));
    let event = fixture.events.recv().await.expect("an Event");
    assert_eq!(
        event["regarding"],
        json!({"apiVersion": "v1", "kind": "Pod", "namespace": "shop", "name": "web", "uid": "1"})
    );
    assert_eq!(
        (event["type"].as_str(), event["reason"].as_str()),
        (Some("Warning"), Some(REASON))
    );
    assert_eq!(
        event["note"],
        "The sidecar closed a connection to port 8081: no Service gives the Pod an inbound at this port, and the mTLS \
         mode of Mesh default is STRICT. Name the port in a Service, or list it in annotation \
         \"traffic.kuma.io/exclude-inbound-ports\" of the Pod, or set networking.inbound.passthrough of the Mesh to true."
    );
    assert_eq!(fixture.count(ReportResult::Event), 1);
}

#[tokio::test]
async fn each_port_of_a_pod_has_an_event_of_its_own() {
    let mut fixture = Fixture::new(Some(MtlsMode::Strict), None);
    for port in [8081, 9090] {
        assert_eq!(fixture.report_as("web", port).await, Ok(true));
        let event = fixture.events.recv().await.expect("an Event");
        let note = event["note"].as_str().expect("a note");
        assert!(note.contains(&format!("to port {port}:")), "{note}");
    }
}

#[tokio::test]
async fn event_names_the_setting_of_the_mesh_that_turns_passthrough_off() {
    let mut fixture = Fixture::new(None, Some(false));
    assert_eq!(fixture.report_as("web", 8081).await, Ok(true));
    let event = fixture.events.recv().await.expect("an Event");
    let note = event["note"].as_str().expect("a note");
    assert!(
        note.contains("Mesh default has networking.inbound.passthrough: false."),
        "{note}"
    );
}

#[tokio::test]
async fn port_that_is_not_closed_causes_no_event() {
    // The Pod has no Service, so its inbound is at the port of Pods without a Service.
    let service_less = u32::from(kermode_model::Inbound::SERVICELESS_PORT);
    for (mode, passthrough, port) in [
        (Some(MtlsMode::Strict), None, service_less),
        (Some(MtlsMode::Strict), Some(true), 8081),
        (Some(MtlsMode::Permissive), None, 8081),
        (None, None, 8081),
    ] {
        let mut fixture = Fixture::new(mode, passthrough);
        assert_eq!(fixture.report_as("web", port).await, Ok(false));
        assert_eq!(fixture.count(ReportResult::NotClosed), 1);
        assert!(fixture.events.try_recv().is_err());
    }
}

#[tokio::test]
async fn unknown_caller_and_invalid_port_are_refused() {
    let fixture = Fixture::new(Some(MtlsMode::Strict), None);
    assert_eq!(fixture.report_as("db", 8081).await, Err(Code::Unauthenticated));
    for port in [0, 65_536] {
        assert_eq!(fixture.report_as("web", port).await, Err(Code::InvalidArgument));
    }
    assert_eq!(fixture.count(ReportResult::Refused), 3);
}

#[tokio::test]
async fn reports_of_a_proxy_and_events_of_a_namespace_are_limited() {
    let fixture = Fixture::new(Some(MtlsMode::Strict), None);
    let mut refused = 0;
    for port in 1..=100 {
        match fixture.report_as("web", port).await {
            Ok(is_closed) => assert!(is_closed),
            Err(code) => {
                assert_eq!(code, Code::ResourceExhausted);
                refused += 1;
            }
        }
    }
    assert_eq!(fixture.count(ReportResult::Refused), refused);
    assert_eq!(refused, 70);
    assert_eq!(fixture.count(ReportResult::Event), 20);
    assert_eq!(fixture.count(ReportResult::Suppressed), 10);
}
