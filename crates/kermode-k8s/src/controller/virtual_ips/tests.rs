//! Tests of the writer of the ConfigMap, with an API server in memory.

use std::sync::Arc;

use http::{Method, Request, Response};
use http_body_util::BodyExt as _;
use kermode_model::Mesh as MeshModel;
use kube::client::Body;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::*;
use crate::index::builders::{key, mk_pod, mk_service};

/// An API server with the ConfigMap of virtual IPs.
#[derive(Clone)]
struct TestApiServer {
    state: Arc<Mutex<TestState>>,
    /// Events for the watch of ConfigMaps.
    events: mpsc::UnboundedSender<Value>,
    event_receiver: Arc<tokio::sync::Mutex<mpsc::UnboundedReceiver<Value>>>,
}

#[derive(Default)]
struct TestState {
    /// The ConfigMap; `None` if it does not exist.
    config_map: Option<Value>,
    version: u64,
    /// Status of a write in place of success.
    failure: Option<u16>,
}

/// Start of the clock of all tests, in seconds since 1970.
const START: i64 = 1_800_000_000;

/// A clock that follows the paused clock of tokio.
fn now() -> Timestamp {
    thread_local! {
        static FIRST: std::cell::OnceCell<Instant> = const { std::cell::OnceCell::new() };
    }
    let elapsed = FIRST.with(|first| first.get_or_init(Instant::now).elapsed());
    at(i64::try_from(elapsed.as_secs()).expect("a number of seconds"))
}

/// Returns the time a number of seconds after [`START`].
fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(START + seconds).expect("a time")
}

/// Successful and failed writes of the ConfigMap: method and object.
type Writes = mpsc::UnboundedReceiver<(Method, Value)>;

impl TestApiServer {
    fn new() -> Self {
        let (events, receiver) = mpsc::unbounded_channel();
        Self {
            state: Arc::default(),
            events,
            event_receiver: Arc::new(tokio::sync::Mutex::new(receiver)),
        }
    }

    fn client(&self) -> (Client, Writes) {
        let server = self.clone();
        let (sender, writes) = mpsc::unbounded_channel();
        let service = tower::service_fn(move |request: Request<Body>| {
            let (server, sender) = (server.clone(), sender.clone());
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await?.to_bytes();
                let is_watch = head.uri.query().is_some_and(|query| query.contains("watch=true"));
                let (status, response) = if is_watch {
                    (200, server.next_event().await)
                } else if head.method == Method::GET {
                    let query = head.uri.query().unwrap_or_default();
                    assert!(query.contains("metadata.name%3Dkuma-dns-vips"), "{query}");
                    (200, server.read(head.uri.path()))
                } else {
                    let object: Value = serde_json::from_slice(&body)?;
                    // The test may have dropped the receiver.
                    let _ = sender.send((head.method.clone(), object.clone()));
                    server.write(&head.method, object)
                };
                let body = Body::from(response.to_string().into_bytes());
                Ok::<_, Box<dyn std::error::Error + Send + Sync>>(
                    Response::builder().status(status).body(body)?,
                )
            }
        });
        (Client::new(service, "system"), writes)
    }

    async fn next_event(&self) -> Value {
        let event = self.event_receiver.lock().await.recv().await;
        event.expect("the sender exists")
    }

    fn read(&self, path: &str) -> Value {
        assert_eq!(path, "/api/v1/namespaces/system/configmaps");
        let state = self.state.lock();
        let items: Vec<_> = state.config_map.iter().collect();
        json!({"metadata": {"resourceVersion": state.version.to_string()}, "items": items})
    }

    fn write(&self, method: &Method, object: Value) -> (u16, Value) {
        let mut state = self.state.lock();
        let current = state
            .config_map
            .as_ref()
            .map(|current| &current["metadata"]["resourceVersion"]);
        let is_conflict = match current {
            None => *method != Method::POST,
            Some(current) => *current != object["metadata"]["resourceVersion"],
        };
        if let Some(code) = state.failure.or(is_conflict.then_some(409)) {
            let status =
                json!({"kind": "Status", "status": "Failure", "code": code, "message": "no", "reason": "no"});
            return (code, status);
        }
        state.version += 1;
        let mut stored = object;
        // Entries that a patch does not contain stay.
        let data = stored["data"].as_object_mut().expect("data");
        let former = state.config_map.as_ref().map(|current| current["data"].clone());
        for (mesh, text) in former.iter().filter_map(Value::as_object).flatten() {
            data.entry(mesh).or_insert_with(|| text.clone());
        }
        data.retain(|_, text| !text.is_null());
        stored["metadata"]["resourceVersion"] = json!(state.version.to_string());
        state.config_map = Some(stored.clone());
        (200, stored)
    }

    /// Replaces the text of the ConfigMap, as a user would, and delivers the change.
    fn edit(&self, text: &str) {
        let mut state = self.state.lock();
        state.version += 1;
        let version = state.version.to_string();
        let config_map = state.config_map.as_mut().expect("a ConfigMap");
        config_map["metadata"]["resourceVersion"] = json!(version);
        config_map["data"]["default"] = json!(text);
        self.deliver("MODIFIED", config_map);
    }

    fn delete(&self) {
        let mut state = self.state.lock();
        let config_map = state.config_map.take().expect("a ConfigMap");
        self.deliver("DELETED", &config_map);
    }

    fn deliver(&self, change: &str, config_map: &Value) {
        let event = json!({"type": change, "object": config_map});
        self.events.send(event).expect("the receiver exists");
    }
}

/// A writer that leads, and the state that it reads.
struct Running {
    index: SharedIndex,
    changes: ServiceChanges,
    is_leader: watch::Sender<bool>,
    metrics: Metrics,
    writes: Writes,
    _task: tokio::task::JoinSet<()>,
}

impl Running {
    /// Starts a writer for a mesh with these services.
    fn start(api_server: &TestApiServer, services: &[&str]) -> Self {
        let (client, writes) = api_server.client();
        let (is_leader_sender, is_leader) = watch::channel(true);
        let index = SharedIndex::default();
        index.write().apply_mesh(MeshModel::new("default"));
        let changes = ServiceChanges::default();
        let metrics = Metrics::default();
        let allocator = VirtualIpWriter {
            client,
            namespace: "system".to_owned(),
            range: VirtualIpRange::default(),
            index: index.clone(),
            service_changes: changes.clone(),
            is_leader,
            metrics: metrics.clone(),
            now,
        };
        let mut task = tokio::task::JoinSet::new();
        task.spawn(allocator.run());
        let running = Self {
            index,
            changes,
            is_leader: is_leader_sender,
            metrics,
            writes,
            _task: task,
        };
        for service in services {
            running.add(service);
        }
        running
    }

    /// Adds a Service with a Pod. Its service is `<name>_demo_svc_80`.
    fn add(&self, name: &str) {
        let mut index = self.index.write();
        let labels = json!({"app": name});
        let ports = json!([{"port": 80, "targetPort": 8080}]);
        index.apply_service(mk_service(name, "10.96.0.1", labels.clone(), ports));
        let ip = format!("10.0.0.{}", name.len());
        index.apply_pod(mk_pod(name, &ip, labels));
        drop(index);
        self.changes.notify();
    }

    fn remove(&self, name: &str) {
        self.index.write().remove_pod(&key(name));
        self.changes.notify();
    }

    async fn next_write(&mut self) -> (Method, Value) {
        self.writes.recv().await.expect("a write")
    }

    /// Asserts that nothing is written any more.
    async fn assert_quiet(&mut self) {
        tokio::time::sleep(LAZY_PAUSE * 3).await;
        assert!(self.writes.try_recv().is_err(), "an unexpected write");
    }

    fn exported(&self) -> String {
        let mut registry = prometheus_client::registry::Registry::default();
        self.metrics.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("metrics");
        text
    }
}

fn text_of(object: &Value) -> &str {
    object["data"]["default"].as_str().expect("a text")
}

/// Returns the services of a text, in order, with the marks of unused ones.
fn services_of(object: &Value) -> Vec<String> {
    let lines = text_of(object).lines();
    let service = |line: &str| {
        let words: Vec<_> = line.split(' ').collect();
        let mark = if words.len() > 2 { " (unused)" } else { "" };
        format!("{}{mark}", words[1])
    };
    lines.map(service).collect()
}

#[tokio::test(start_paused = true)]
async fn config_map_is_created_and_updated_for_new_and_former_services() {
    let api_server = TestApiServer::new();
    let mut running = Running::start(&api_server, &["web"]);
    running.assert_quiet().await;
    running.changes.start();
    let (method, created) = running.next_write().await;
    assert_eq!(method, Method::POST);
    assert_eq!(created["metadata"]["name"], "kuma-dns-vips");
    assert_eq!(services_of(&created), ["web_demo_svc_80"]);
    running.add("worker");
    let (method, updated) = running.next_write().await;
    assert_eq!(method, Method::PATCH);
    assert_eq!(updated["metadata"]["resourceVersion"], "1");
    assert_eq!(services_of(&updated), ["web_demo_svc_80", "worker_demo_svc_80"]);
    assert!(
        text_of(&updated).contains(text_of(&created)),
        "addresses do not change"
    );
    running.remove("web");
    let (_, updated) = running.next_write().await;
    assert_eq!(
        services_of(&updated),
        ["web_demo_svc_80 (unused)", "worker_demo_svc_80"]
    );
    running.assert_quiet().await;
    assert_eq!(running.metrics.write_count(WriteResult::Written), 3);
    let exported = running.exported();
    for line in [
        "virtual_ip_services{mesh=\"default\",state=\"Used\"} 1",
        "virtual_ip_services{mesh=\"default\",state=\"Unused\"} 1",
        "virtual_ip_services{mesh=\"default\",state=\"WithoutAddress\"} 0",
    ] {
        assert!(exported.contains(line), "{line} is missing: {exported}");
    }
    running.is_leader.send_replace(false);
    tokio::time::sleep(ROUND_PAUSE).await;
    assert!(
        !running.exported().contains("virtual_ip_services{"),
        "only the leader reports numbers"
    );
}

#[tokio::test(start_paused = true)]
async fn nothing_is_written_without_services() {
    let api_server = TestApiServer::new();
    let mut running = Running::start(&api_server, &[]);
    running.changes.start();
    running.assert_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn deleted_config_map_is_restored_with_the_same_addresses() {
    let api_server = TestApiServer::new();
    let mut running = Running::start(&api_server, &["web", "worker"]);
    running.changes.start();
    let (_, created) = running.next_write().await;
    // The addresses are not those that another allocation would choose.
    let edited = "240.0.0.1 web_demo_svc_80\n240.0.0.2 worker_demo_svc_80\n";
    api_server.edit(edited);
    running.assert_quiet().await;
    api_server.delete();
    let (method, restored) = running.next_write().await;
    assert_eq!(method, Method::POST);
    assert_eq!(text_of(&restored), edited);
    assert_ne!(text_of(&restored), text_of(&created));
    running.assert_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn invalid_content_is_restored() {
    let api_server = TestApiServer::new();
    let mut running = Running::start(&api_server, &["web", "worker"]);
    running.changes.start();
    let (_, created) = running.next_write().await;
    let web = text_of(&created).lines().next().expect("a line");
    let address = web.split(' ').next().expect("an address");
    for invalid in [
        "nonsense".to_owned(),
        String::new(),
        format!("{address} worker_demo_svc_80 unused-since=2026-01-01T00:00:00Z\n{web}\n"),
        format!("{web}\n{address} other\n"),
    ] {
        api_server.edit(&invalid);
        let (method, restored) = running.next_write().await;
        assert_eq!(
            (method, text_of(&restored)),
            (Method::PATCH, text_of(&created)),
            "{invalid}"
        );
    }
    running.assert_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn new_leader_keeps_the_addresses_that_it_published_before() {
    let api_server = TestApiServer::new();
    let mut running = Running::start(&api_server, &["web"]);
    let virtual_ips = [("web_demo_svc_80".into(), [240, 1, 2, 3].into())];
    running
        .index
        .write()
        .apply_virtual_ips([("default".into(), virtual_ips.into())].into());
    running.changes.start();
    let (_, created) = running.next_write().await;
    assert_eq!(text_of(&created), "240.1.2.3 web_demo_svc_80\n");
}

#[tokio::test(start_paused = true)]
async fn failed_write_is_repeated() {
    let api_server = TestApiServer::new();
    api_server.state.lock().failure = Some(403);
    let mut running = Running::start(&api_server, &["web"]);
    running.changes.start();
    let first = running.next_write().await;
    let second = running.next_write().await;
    assert_eq!(first, second);
    api_server.state.lock().failure = None;
    running.next_write().await;
    running.assert_quiet().await;
    assert_eq!(running.metrics.write_count(WriteResult::Failed), 2);
    assert_eq!(running.metrics.write_count(WriteResult::Written), 1);
}

#[tokio::test(start_paused = true)]
async fn write_after_a_concurrent_change_starts_from_the_changed_config_map() {
    let api_server = TestApiServer::new();
    let mut running = Running::start(&api_server, &["web"]);
    running.changes.start();
    running.next_write().await;
    // The change is delivered after the conflict.
    api_server.state.lock().failure = Some(409);
    running.add("worker");
    running.next_write().await;
    api_server.state.lock().failure = None;
    api_server.edit("240.0.0.9 web_demo_svc_80\n");
    let (_, written) = running.next_write().await;
    assert!(
        text_of(&written).starts_with("240.0.0.9 web_demo_svc_80\n"),
        "{written}"
    );
    running.assert_quiet().await;
    assert_eq!(running.metrics.write_count(WriteResult::Conflict), 1);
}

#[tokio::test(start_paused = true)]
async fn service_that_is_away_for_a_moment_causes_no_write() {
    let api_server = TestApiServer::new();
    let mut running = Running::start(&api_server, &["web", "worker"]);
    running.changes.start();
    running.next_write().await;
    for _ in 0..3 {
        running.remove("web");
        tokio::time::sleep(LAZY_PAUSE / 2).await;
        running.add("web");
        tokio::time::sleep(LAZY_PAUSE).await;
    }
    assert!(running.writes.try_recv().is_err(), "an unexpected write");
    // The change of another service's address is not delayed.
    running.remove("web");
    tokio::time::sleep(ROUND_PAUSE * 2).await;
    running.add("new");
    let start = Instant::now();
    running.next_write().await;
    assert!(start.elapsed() < LAZY_PAUSE);
}

#[tokio::test(start_paused = true)]
async fn failing_write_is_repeated_after_a_pause_whatever_changes() {
    let api_server = TestApiServer::new();
    api_server.state.lock().failure = Some(403);
    let mut running = Running::start(&api_server, &["web"]);
    running.changes.start();
    running.next_write().await;
    let start = Instant::now();
    running.add("worker");
    running.next_write().await;
    assert!(start.elapsed() >= RETRY_PAUSE);
}

#[tokio::test(start_paused = true)]
async fn entry_of_a_deleted_mesh_is_removed_after_a_day() {
    let api_server = TestApiServer::new();
    let mut running = Running::start(&api_server, &["web"]);
    running.changes.start();
    running.next_write().await;
    running.index.write().remove_mesh(&"default".into());
    running.changes.notify();
    let (_, unused) = running.next_write().await;
    assert_eq!(services_of(&unused), ["web_demo_svc_80 (unused)"]);
    let start = Instant::now();
    let (_, removed) = running.next_write().await;
    assert_eq!(removed["data"], json!({"default": null}));
    assert!(start.elapsed() > Duration::from_hours(23));
    running.assert_quiet().await;
}

#[tokio::test(start_paused = true)]
async fn expired_addresses_are_removed_without_a_change_of_services() {
    let api_server = TestApiServer::new();
    now();
    let since = at(0);
    let text = format!("240.0.0.8 old unused-since={since}\n240.0.0.9 web_demo_svc_80\n");
    let mut stored = config_map(&[("default".into(), Some(text))].into());
    stored["metadata"]["resourceVersion"] = json!("1");
    api_server.state.lock().config_map = Some(stored);
    let mut running = Running::start(&api_server, &["web"]);
    running.changes.start();
    tokio::time::sleep(Duration::from_hours(23)).await;
    assert!(
        running.writes.try_recv().is_err(),
        "the address is reserved for a day"
    );
    let (_, written) = running.next_write().await;
    assert_eq!(text_of(&written), "240.0.0.9 web_demo_svc_80\n");
    assert!(now() >= at(24 * 60 * 60));
    running.assert_quiet().await;
}
