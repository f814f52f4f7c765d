//! Tests of the objects that are created, with an API server in memory.

use http::Method;
use tokio::sync::mpsc;

use super::super::test_api_server::{self, ApiRequest, ApiResponse};
use super::super::writes::RETRY_PAUSE;
use super::*;

/// An API server with objects of Multus. Watch requests never end.
#[derive(Clone, Default)]
struct TestApiServer(Arc<parking_lot::Mutex<TestState>>);

#[derive(Default)]
struct TestState {
    /// Whether Multus is installed.
    has_kind: bool,
    /// Namespaces that have the object.
    namespaces: Vec<String>,
    /// Namespaces in which writes are denied.
    denied: BTreeSet<String>,
}

/// Paths and bodies of the writes that the API server received.
type Writes = mpsc::UnboundedReceiver<(String, Value)>;

impl TestApiServer {
    fn client(&self) -> (Client, Writes) {
        let state = self.0.clone();
        let (sender, writes) = mpsc::unbounded_channel();
        let client = test_api_server::client("default", move |request| {
            let state = state.lock();
            if request.method == Method::GET {
                return state.list(&request);
            }
            assert_eq!(request.method, Method::PATCH);
            // The test may have dropped the receiver.
            let _ = sender.send((request.uri.path().to_owned(), request.body.clone()));
            let namespace = request.body["metadata"]["namespace"].as_str().unwrap_or_default();
            if state.denied.contains(namespace) {
                test_api_server::failure(403, "Forbidden", "quota")
            } else {
                (200, request.body)
            }
        });
        (client, writes)
    }
}

impl TestState {
    fn list(&self, request: &ApiRequest) -> ApiResponse {
        let path = "/apis/k8s.cni.cncf.io/v1/network-attachment-definitions";
        assert_eq!(request.uri.path(), path);
        assert!(
            request.query().contains("fieldSelector=metadata.name%3Dkuma-cni"),
            "the role allows to list the objects of one name only: {}",
            request.query()
        );
        if !self.has_kind {
            return test_api_server::failure(404, "NotFound", "404 page not found");
        }
        let items: Vec<_> = self
            .namespaces
            .iter()
            .map(|namespace| object(namespace))
            .collect();
        let (code, mut list) = test_api_server::list(&items);
        list["apiVersion"] = "meta.k8s.io/v1".into();
        list["kind"] = "PartialObjectMetadataList".into();
        (code, list)
    }
}

fn object(namespace: &str) -> Value {
    json!({
        "apiVersion": "meta.k8s.io/v1",
        "kind": "PartialObjectMetadata",
        "metadata": {"name": NETWORK, "namespace": namespace},
    })
}

/// Runs a leading publisher until the test drops the returned task.
fn start(api_server: &TestApiServer, namespaces: &SidecarNamespaces) -> (Writes, tokio::task::JoinSet<()>) {
    let (client, writes) = api_server.client();
    let (is_leader_sender, is_leader) = watch::channel(true);
    let publisher = NetworkAttachmentPublisher {
        client,
        namespaces: namespaces.clone(),
        is_leader,
        metrics: Metrics::default(),
    };
    let mut task = tokio::task::JoinSet::new();
    task.spawn(async move {
        let _is_leader_sender = is_leader_sender;
        publisher.run().await;
    });
    (writes, task)
}

/// Returns the namespace of the next write.
async fn next(writes: &mut Writes) -> String {
    let (path, object) = writes.recv().await.expect("a write");
    let namespace = object["metadata"]["namespace"].as_str().expect("a namespace");
    let folder = format!("/apis/k8s.cni.cncf.io/v1/namespaces/{namespace}/network-attachment-definitions");
    assert_eq!(path, format!("{folder}/kuma-cni"));
    assert_eq!(
        object["spec"],
        Value::Null,
        "Multus must read the configuration of the node"
    );
    namespace.to_owned()
}

#[tokio::test(start_paused = true)]
async fn network_is_created_in_each_namespace_of_sidecars_that_lacks_it() {
    let api_server = TestApiServer::default();
    {
        let mut state = api_server.0.lock();
        state.has_kind = true;
        state.namespaces.push("current".to_owned());
        state.denied.insert("full".to_owned());
    }
    let namespaces = SidecarNamespaces::default();
    for namespace in ["current", "full", "shop"] {
        namespaces.add(&namespace.into());
    }
    let (mut writes, _task) = start(&api_server, &namespaces);
    assert_eq!(next(&mut writes).await, "full");
    assert_eq!(next(&mut writes).await, "shop");
    // A failed write is repeated.
    api_server.0.lock().denied.clear();
    assert_eq!(next(&mut writes).await, "full");
    namespaces.add(&"bank".into());
    assert_eq!(next(&mut writes).await, "bank");
    tokio::time::sleep(RETRY_PAUSE * 2).await;
    assert!(writes.try_recv().is_err(), "each network is created once");
}

#[tokio::test(start_paused = true)]
async fn networks_are_created_when_multus_is_installed_later() {
    let api_server = TestApiServer::default();
    let namespaces = SidecarNamespaces::default();
    namespaces.add(&"shop".into());
    let (mut writes, _task) = start(&api_server, &namespaces);
    tokio::time::sleep(RETRY_PAUSE * 2).await;
    assert!(writes.try_recv().is_err(), "without Multus, nothing is written");
    api_server.0.lock().has_kind = true;
    assert_eq!(next(&mut writes).await, "shop");
}

#[test]
fn deleted_network_is_missing_again() {
    let mut observed = ObservedNamespaces::default();
    let needed = BTreeSet::from(["shop".into()]);
    let of_shop = || serde_json::from_value(object("shop")).expect("an object");
    assert!(
        observed.missing(&needed).is_empty(),
        "nothing is known before the list"
    );
    observed.on_event(Event::Init);
    observed.on_event(Event::InitApply(of_shop()));
    observed.on_event(Event::InitDone);
    assert!(observed.missing(&needed).is_empty());
    observed.on_event(Event::Delete(of_shop()));
    assert_eq!(observed.missing(&needed), ["shop".into()]);
    observed.on_event(Event::Apply(of_shop()));
    assert!(observed.missing(&needed).is_empty());
}
