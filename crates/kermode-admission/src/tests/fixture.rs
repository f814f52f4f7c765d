//! Runs the webhooks over HTTPS on loopback. The webhooks' directory (their copy of the API server's Namespaces and
//! Meshes) contains the Namespaces `shop` (injection enabled) and `plain` (injection not enabled), and the Mesh
//! `default` with the service `web_shop_svc_80`.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kermode_crds::annotation::SIDECAR_INJECTION;
use kermode_identity::{ServingAuthority, Term};
use kermode_k8s::controller::recorder::EventRecorder;
use kermode_runtime::shutdown::{self, Trigger};
use kermode_runtime::tls::{self, ServingCertificate};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

use super::api_server::{ApiServer, Mode};
use super::caller::Caller;
use super::review::{AdmissionResponse, review};
use crate::directory::{Directory, NamespaceRecord};
use crate::{InjectionEvents, Metrics, RecentDecisions, Webhooks, router};

/// Maximum number of connections to the webhooks.
pub(super) const MAX_CONNECTIONS: usize = 256;
/// Path of the ReplicaSet that owns the Pods of the tests.
pub(super) const REPLICA_SET_PATH: &str = "/apis/apps/v1/namespaces/shop/replicasets/web-5d9c7b8f6d";

/// Returns the metadata of the ReplicaSet that owns the Pods of the tests.
pub(super) fn replica_set_metadata(uid: &str) -> Value {
    json!({
        "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
        "metadata": {"name": "web-5d9c7b8f6d", "namespace": "shop", "uid": uid},
    })
}

/// The running webhooks and their dependencies.
pub(super) struct Fixture {
    pub(super) api_server: ApiServer,
    pub(super) caller: Caller,
    events: mpsc::UnboundedReceiver<Value>,
    registry: Registry,
    /// The most recent decisions.
    pub(super) recent: RecentDecisions,
    /// Stops the webhooks when the fixture is dropped.
    _trigger: Trigger,
}

impl Fixture {
    /// Starts the webhooks. `mode` is the behaviour of the mock API server.
    pub(super) async fn new(mode: Mode) -> Self {
        let (api_server, events) = ApiServer::new(mode);
        api_server.put(REPLICA_SET_PATH, replica_set_metadata("rs-1"));
        let metrics = Metrics::default();
        let mut registry = Registry::with_prefix("kuma_cp");
        metrics.register(&mut registry);
        let (trigger, shutdown) = shutdown::channel();
        let now = SystemTime::now();
        let authority = ServingAuthority::generate(now).expect("a CA");
        let issued = authority
            .issue(&["localhost".to_owned()], Term::of(Duration::from_hours(1)), now)
            .expect("a certificate");
        let chain = issued.certificate.chain.clone();
        let certificate = ServingCertificate::new(chain, issued.private_key().into()).expect("a pair");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let webhooks = webhooks(&api_server, metrics);
        let recent = webhooks.recent.clone();
        tokio::spawn(tls::serve(
            listener,
            certificate,
            router(webhooks),
            MAX_CONNECTIONS,
            shutdown,
        ));
        let ca = rustls::pki_types::pem::PemObject::from_pem_slice(authority.certificate_pem().as_bytes());
        Self {
            api_server,
            caller: Caller {
                address,
                ca: ca.expect("a CA"),
            },
            events,
            registry,
            recent,
            _trigger: trigger,
        }
    }

    /// Sends a review of a new Pod to the injection webhook.
    pub(super) async fn inject(&self, namespace: &str, pod: Value) -> AdmissionResponse {
        self.send(
            "/inject-sidecar?timeout=10s",
            review("u-1", namespace, "Pod", pod),
        )
        .await
    }

    /// Sends a review and asserts that the response has the UID of its request.
    pub(super) async fn send(&self, path: &str, review: Value) -> AdmissionResponse {
        let uid = review["request"]["uid"].clone();
        let response = AdmissionResponse::read(&self.caller.post(path, review.to_string()).await);
        assert_eq!(response.uid, uid, "the response has the UID of the request");
        response
    }

    /// Waits for the next Event and returns its type, its reason, and the kind and name of its object.
    pub(super) async fn next_event(&mut self) -> String {
        let event = tokio::time::timeout(Duration::from_secs(20), self.events.recv()).await;
        let event = event.expect("an Event within 20 s").expect("an open channel");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        assert_eq!(event["action"], "InjectSidecar");
        assert_eq!(event["metadata"]["namespace"], event["regarding"]["namespace"]);
        let (kind, name) = (
            text(&event["regarding"]["kind"]),
            text(&event["regarding"]["name"]),
        );
        format!(
            "{} {} about {kind} {name}",
            text(&event["type"]),
            text(&event["reason"])
        )
    }

    /// Returns the metrics in the text format.
    pub(super) fn metrics(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).expect("text");
        text
    }
}

/// Creates the webhooks of the fixture.
pub(super) fn webhooks(api_server: &ApiServer, metrics: Metrics) -> Webhooks {
    let directory = Directory::default();
    let labelled = NamespaceRecord {
        labels: [(SIDECAR_INJECTION.to_owned(), "enabled".to_owned())].into(),
        ..NamespaceRecord::default()
    };
    {
        let mut contents = directory.write();
        contents.namespaces.insert("shop".into(), Arc::new(labelled));
        contents.namespaces.insert("plain".into(), Arc::default());
        contents.meshes.insert("default".into());
        contents
            .services
            .set(&"default".into(), &"web_shop_svc_80".into(), true);
    }
    Webhooks {
        settings: kermode_inject::Settings {
            native_sidecars_supported: true,
            ..kermode_inject::Settings::default()
        },
        directory,
        client: api_server.client(),
        control_plane_url: "https://kuma-control-plane.kong-mesh-system:5678".to_owned(),
        // The last value stays readable after the sender is dropped.
        control_plane_roots: watch::channel(Arc::from("CA")).1,
        system_namespace: "kong-mesh-system".to_owned(),
        events: InjectionEvents::start(
            EventRecorder::start(api_server.client(), None),
            api_server.client(),
        ),
        recent: RecentDecisions::default(),
        metrics,
    }
}
