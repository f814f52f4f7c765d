//! Tests of the decision which ConfigMaps are written, and of the writes to an API server in memory.

use http::Method;
use kube::runtime::watcher::Event;
use tokio::sync::mpsc;

use super::super::test_api_server;
use super::super::writes::RETRY_PAUSE;
use super::*;

/// An API server with ConfigMaps. Watch requests never end.
#[derive(Clone, Default)]
struct TestApiServer(Arc<parking_lot::Mutex<TestState>>);

#[derive(Default)]
struct TestState {
    config_maps: Vec<Value>,
    /// Namespaces in which writes are denied.
    denied: BTreeSet<String>,
    /// Namespaces that do not exist.
    missing: BTreeSet<String>,
}

/// Writes of ConfigMaps that the API server received: namespace and roots.
type Writes = mpsc::UnboundedReceiver<(String, String)>;

impl TestApiServer {
    fn client(&self) -> (Client, Writes) {
        let state = self.0.clone();
        let (sender, writes) = mpsc::unbounded_channel();
        let client = test_api_server::client("default", move |request| {
            let state = state.lock();
            if request.method == Method::GET {
                assert!(
                    request
                        .query()
                        .contains("fieldSelector=metadata.name%3Dkuma-control-plane-ca"),
                    "the role allows to list the ConfigMaps of one name only: {}",
                    request.query()
                );
                return test_api_server::list(&state.config_maps);
            }
            assert_eq!(request.method, Method::PATCH);
            let namespace = request.body["metadata"]["namespace"].as_str().unwrap_or_default();
            let roots = request.body["data"]["ca.crt"].as_str().unwrap_or_default();
            // The test may have dropped the receiver.
            let _ = sender.send((namespace.to_owned(), roots.to_owned()));
            if state.missing.contains(namespace) {
                test_api_server::failure(404, "NotFound", "no Namespace")
            } else if state.denied.contains(namespace) {
                test_api_server::failure(403, "Forbidden", "quota")
            } else {
                (200, request.body)
            }
        });
        (client, writes)
    }
}

fn mk_object(namespace: &str, roots: &str) -> ConfigMap {
    serde_json::from_value(config_map(namespace, roots)).expect("a ConfigMap")
}

fn set(names: &[&str]) -> BTreeSet<Arc<str>> {
    names.iter().map(|name| Arc::from(*name)).collect()
}

fn outdated(observed: &ObservedConfigMaps, needed: &[&str]) -> Vec<String> {
    let namespaces = observed.outdated(&set(needed), &"new".into());
    namespaces.iter().map(ToString::to_string).collect()
}

#[test]
fn nothing_is_written_before_the_config_maps_are_listed() {
    let mut observed = ObservedConfigMaps::default();
    assert!(outdated(&observed, &["shop"]).is_empty());
    observed.on_event(Event::Init);
    observed.on_event(Event::InitApply(mk_object("shop", "new")));
    assert!(outdated(&observed, &["shop"]).is_empty());
    observed.on_event(Event::InitDone);
    assert_eq!(outdated(&observed, &["shop", "bank"]), ["bank"]);
}

#[test]
fn missing_changed_and_deleted_config_maps_are_outdated() {
    let mut observed = ObservedConfigMaps::default();
    observed.on_event(Event::InitDone);
    observed.on_written("shop".into(), "new".into());
    assert!(
        outdated(&observed, &["shop"]).is_empty(),
        "a write is not repeated"
    );
    observed.on_event(Event::Apply(mk_object("shop", "tampered")));
    assert_eq!(outdated(&observed, &["shop"]), ["shop"]);
    let mut without_entry = mk_object("shop", "");
    without_entry.data = None;
    observed.on_event(Event::Apply(without_entry));
    assert_eq!(outdated(&observed, &["shop"]), ["shop"]);
    observed.on_event(Event::Apply(mk_object("shop", "new")));
    assert!(outdated(&observed, &["shop"]).is_empty());
    observed.on_event(Event::Delete(mk_object("shop", "new")));
    assert_eq!(outdated(&observed, &["shop"]), ["shop"]);
}

#[test]
fn config_map_that_the_control_plane_wrote_is_updated_even_without_sidecars_in_its_namespace() {
    let mut observed = ObservedConfigMaps::default();
    let mut of_user = mk_object("other", "old");
    of_user.metadata.labels = None;
    observed.on_event(Event::Init);
    observed.on_event(Event::InitApply(mk_object("former", "old")));
    observed.on_event(Event::InitApply(of_user));
    observed.on_event(Event::InitDone);
    assert_eq!(outdated(&observed, &[]), ["former"]);
    assert_eq!(outdated(&observed, &["other"]), ["former", "other"]);
}

/// Runs a leading publisher until the test drops the returned task.
fn start(
    api_server: &TestApiServer,
    namespaces: &SidecarNamespaces,
    metrics: &Metrics,
) -> (watch::Sender<Arc<str>>, Writes, tokio::task::JoinSet<()>) {
    let (client, writes) = api_server.client();
    let (is_leader_sender, is_leader) = watch::channel(true);
    let (roots_sender, roots) = watch::channel(Arc::from("old"));
    let publisher = RootsPublisher {
        client,
        namespaces: namespaces.clone(),
        roots,
        is_leader,
        metrics: metrics.clone(),
    };
    let mut task = tokio::task::JoinSet::new();
    task.spawn(async move {
        let _is_leader_sender = is_leader_sender;
        publisher.run().await;
    });
    (roots_sender, writes, task)
}

async fn next(writes: &mut Writes) -> (String, String) {
    writes.recv().await.expect("a write")
}

fn write(namespace: &str, roots: &str) -> (String, String) {
    (namespace.to_owned(), roots.to_owned())
}

#[tokio::test(start_paused = true)]
async fn roots_are_written_to_each_new_namespace_with_sidecars_and_again_when_the_roots_change() {
    let api_server = TestApiServer::default();
    api_server.0.lock().config_maps.push(config_map("current", "old"));
    let namespaces = SidecarNamespaces::default();
    namespaces.add(&"current".into());
    namespaces.add(&"shop".into());
    let metrics = Metrics::default();
    let (roots, mut writes, _task) = start(&api_server, &namespaces, &metrics);
    assert_eq!(next(&mut writes).await, write("shop", "old"));
    namespaces.add(&"bank".into());
    assert_eq!(next(&mut writes).await, write("bank", "old"));
    namespaces.remove("shop");
    roots.send_replace("old and new".into());
    let mut written = Vec::new();
    for _ in 0..3 {
        written.push(next(&mut writes).await);
    }
    written.sort();
    // `shop` still has a ConfigMap.
    let expected = ["bank", "current", "shop"].map(|namespace| write(namespace, "old and new"));
    assert_eq!(written, expected);
    assert!(writes.try_recv().is_err(), "every ConfigMap is written once");
}

#[tokio::test(start_paused = true)]
async fn failed_write_is_repeated_and_does_not_stop_others() {
    let api_server = TestApiServer::default();
    api_server.0.lock().denied.insert("full".to_owned());
    let namespaces = SidecarNamespaces::default();
    namespaces.add(&"full".into());
    let metrics = Metrics::default();
    let (_roots, mut writes, _task) = start(&api_server, &namespaces, &metrics);
    assert_eq!(next(&mut writes).await, write("full", "old"));
    namespaces.add(&"shop".into());
    assert_eq!(next(&mut writes).await, write("shop", "old"));
    assert_eq!(next(&mut writes).await, write("full", "old"));
    api_server.0.lock().denied.clear();
    assert_eq!(next(&mut writes).await, write("full", "old"));
    tokio::time::sleep(RETRY_PAUSE * 2).await;
    assert!(writes.try_recv().is_err());
    assert_eq!(metrics.write_count(WriteResult::Failed), 2);
    assert_eq!(metrics.write_count(WriteResult::Written), 2);
}

#[tokio::test(start_paused = true)]
async fn namespace_that_is_gone_gets_no_further_write_until_it_is_added_again() {
    let api_server = TestApiServer::default();
    api_server.0.lock().missing.insert("gone".to_owned());
    let namespaces = SidecarNamespaces::default();
    namespaces.add(&"gone".into());
    let metrics = Metrics::default();
    let (_roots, mut writes, _task) = start(&api_server, &namespaces, &metrics);
    assert_eq!(next(&mut writes).await, write("gone", "old"));
    tokio::time::sleep(RETRY_PAUSE * 2).await;
    assert!(writes.try_recv().is_err(), "the write is not repeated");
    assert!(!namespaces.contains("gone"));
    assert_eq!(metrics.write_count(WriteResult::Failed), 0);
    // Another Namespace of the same name is created.
    api_server.0.lock().missing.clear();
    namespaces.add(&"gone".into());
    assert_eq!(next(&mut writes).await, write("gone", "old"));
    tokio::time::sleep(RETRY_PAUSE * 2).await;
    assert_eq!(metrics.write_count(WriteResult::Written), 1);
}
