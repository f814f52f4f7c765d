//! Tests of the Events that the engine records, and of the delay of writes.

mod removals;

use http::{Method, Request, Response};
use http_body_util::BodyExt as _;
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use kermode_k8s::controller::writer;
use kermode_k8s::convert::facts::{IntermediateKind, NamespaceFacts, PodFacts, ServiceFacts};
use kermode_k8s::service_changes::ServiceChanges;
use kermode_runtime::readiness::Readiness;
use kermode_xds::store::Store;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

use super::*;

/// Requests to the API server, with their methods.
type Requests = mpsc::UnboundedReceiver<(Method, Value)>;

/// Returns a client whose API server accepts every request, and a receiver of the requests.
fn mk_client() -> (Client, Requests) {
    let (sender, requests) = mpsc::unbounded_channel();
    let service = tower::service_fn(move |request: Request<Body>| {
        let sender = sender.clone();
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            let object: Value = serde_json::from_slice(&body)?;
            // The test may have dropped the receiver.
            let _ = sender.send((head.method, object));
            let response = Response::builder().status(201).body(Body::from(body.to_vec()));
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(response?)
        }
    });
    (Client::new(service, "default"), requests)
}

fn mk_engine(client: Client, is_leader: watch::Receiver<bool>) -> Engine {
    let index = SharedIndex::default();
    let event_recorder = EventRecorder::start(client.clone(), None);
    let writer = Writer::new(
        client,
        index.clone(),
        event_recorder.clone(),
        writer::Metrics::default(),
    );
    Engine {
        index,
        directory: Directory::default(),
        publisher: Publisher::new(Arc::new(Store::default())),
        removals: EndpointRemovals::default(),
        writer,
        event_recorder,
        meshes_changed: Arc::default(),
        service_changes: ServiceChanges::default(),
        sidecar_namespaces: SidecarNamespaces::default(),
        is_leader,
        metrics: Metrics::default(),
    }
}

fn mk_pod(name: &str, ip: &str) -> WatchEvent {
    mk_pod_with_annotations(name, ip, json!({"kuma.io/sidecar-injected": "true"}))
}

fn mk_pod_with_annotations(name: &str, ip: &str, annotations: Value) -> WatchEvent {
    let pod = json!({
        "metadata": {
            "name": name, "namespace": "demo", "uid": format!("uid-of-{name}"), "labels": {"app": "web"},
            "annotations": annotations,
        },
        "spec": {"containers": [
            {"name": "app", "ports": [{"containerPort": 8080, "name": "http"}]},
            {"name": "kuma-sidecar"},
        ]},
        "status": {"podIP": ip, "phase": "Running"},
    });
    let pod: Pod = serde_json::from_value(pod).expect("a Pod");
    ObjectUpdate::Pod(Update::Applied(
        ObjectKey::new("demo", name),
        PodFacts::from(&pod),
    ))
    .into()
}

fn mk_service(name: &str, ports: Value) -> WatchEvent {
    let service = json!({
        "metadata": {"name": name, "namespace": "demo", "uid": format!("uid-of-{name}")},
        "spec": {"selector": {"app": "web"}, "clusterIP": "10.96.0.1", "ports": ports},
    });
    let service: Service = serde_json::from_value(service).expect("a Service");
    let facts = ServiceFacts::from(&service);
    ObjectUpdate::Service(Update::Applied(ObjectKey::new("demo", name), facts)).into()
}

/// Ends of the initial lists of all watches.
fn ends_of_lists() -> impl Iterator<Item = WatchEvent> {
    [
        ObjectUpdate::Namespace(Update::Synced),
        ObjectUpdate::Node(Update::Synced),
        ObjectUpdate::Mesh(Update::Synced),
        ObjectUpdate::Permission(Update::Synced),
        ObjectUpdate::ContainerPatch(Update::Synced),
        ObjectUpdate::Intermediate(IntermediateKind::ReplicaSet, Update::Synced),
        ObjectUpdate::Intermediate(IntermediateKind::Job, Update::Synced),
        ObjectUpdate::Service(Update::Synced),
        ObjectUpdate::EndpointSlice(Update::Synced),
        ObjectUpdate::Pod(Update::Synced),
        ObjectUpdate::VirtualIps(Update::Synced),
    ]
    .map(WatchEvent::from)
    .into_iter()
}

/// Runs an engine on the initial lists with these objects. Returns the written Events, each as the kind, name and UID
/// of the object that it is about, the type, and the reason.
async fn events_about(objects: impl IntoIterator<Item = WatchEvent>, is_leader: bool) -> Vec<Value> {
    let (client, mut requests) = mk_client();
    let (_is_leader_sender, is_leader) = watch::channel(is_leader);
    let engine = mk_engine(client, is_leader);
    let (sender, events) = mpsc::channel(MAX_BATCH_SIZE);
    for event in objects.into_iter().chain(ends_of_lists()) {
        sender.send(event).await.expect("the engine's channel is open");
    }
    drop(sender);
    engine.run(events, Readiness::default().register("engine")).await;
    let mut written = Vec::new();
    // The channel closes with the last clone of the client, which the task that writes Events owns.
    while let Some((method, event)) = requests.recv().await {
        assert_eq!(
            method,
            Method::POST,
            "an Event was updated after its creation: {event}"
        );
        let about = &event["regarding"];
        let text = |value: &Value, key: &str| value[key].as_str().expect("a member of an Event").to_owned();
        written.push(json!([
            text(about, "kind"),
            text(about, "name"),
            text(about, "uid"),
            text(&event, "type"),
            text(&event, "reason")
        ]));
    }
    written.sort_by_key(Value::to_string);
    written
}

fn mk_objects() -> Vec<WatchEvent> {
    vec![
        mk_service("silent", json!([])),
        mk_service("datagrams", json!([{"port": 53, "protocol": "UDP"}])),
        mk_service("typo", json!([{"port": 80, "targetPort": "htpp"}])),
        mk_pod("web-1", "10.0.0.1"),
        mk_pod("web-2", "10.0.0.2"),
    ]
}

#[tokio::test]
async fn service_without_inbounds_gets_one_event_however_many_pods_it_selects() {
    let written = events_about(mk_objects(), true).await;
    assert_eq!(
        written,
        [
            json!(["Pod", "web-1", "uid-of-web-1", "Warning", "TargetPortNotFound"]),
            json!(["Pod", "web-2", "uid-of-web-2", "Warning", "TargetPortNotFound"]),
            json!([
                "Service",
                "datagrams",
                "uid-of-datagrams",
                "Normal",
                "ServiceWithoutInbound"
            ]),
            json!([
                "Service",
                "silent",
                "uid-of-silent",
                "Normal",
                "ServiceWithoutInbound"
            ]),
            json!([
                "Service",
                "typo",
                "uid-of-typo",
                "Warning",
                "ServiceWithoutInbound"
            ]),
        ]
    );
}

#[tokio::test]
async fn replica_that_is_not_the_leader_writes_no_events() {
    assert_eq!(events_about(mk_objects(), false).await, Vec::<Value>::new());
}

#[test]
fn write_delay_grows_with_the_number_of_proxies_up_to_a_limit() {
    assert_eq!(write_delay(0), Duration::ZERO);
    assert_eq!(write_delay(1_000), Duration::from_millis(30));
    assert_eq!(write_delay(usize::MAX), MAX_WRITE_DELAY);
}

#[tokio::test]
async fn directory_has_the_services_of_which_a_pod_has_an_inbound() {
    let (client, _requests) = mk_client();
    let (_is_leader, leadership) = watch::channel(false);
    let engine = mk_engine(client, leadership);
    let apply = |events: Vec<WatchEvent>| engine.apply(events.into_iter().map(|event| event.update), None);
    let has_service = || {
        let (mesh, service) = ("default".into(), "web_demo_svc_80".into());
        engine.directory.read().services.contains(&mesh, &service)
    };
    let removal = |name: &str| ObjectUpdate::Pod(Update::Gone(ObjectKey::new("demo", name))).into();
    apply(vec![mk_service("web", json!([{"port": 80, "targetPort": 8080}]))]);
    assert!(!has_service());
    apply(vec![mk_pod("web-1", "10.0.0.1"), mk_pod("web-2", "10.0.0.2")]);
    assert!(has_service());
    apply(vec![removal("web-1")]);
    assert!(has_service());
    apply(vec![removal("web-2")]);
    assert!(!has_service());
}

#[tokio::test]
async fn subscriber_of_a_dataplane_learns_of_a_service_that_selects_its_pod_later() {
    let (client, _requests) = mk_client();
    let mut engine = mk_engine(client, watch::channel(false).1);
    let mut startup = Some(Startup {
        sync: InitialSync::default(),
        readiness_guard: Readiness::default().register("engine"),
    });
    let mut batch = vec![mk_pod("web", "10.0.0.1")];
    batch.extend(ends_of_lists());
    engine.on_batch(&mut startup, &mut batch, 0);
    let mut changes = engine.index.changes_of(&ObjectKey::new("demo", "web"));
    let mut batch = vec![mk_service("later", json!([{"port": 80, "targetPort": 8080}]))];
    engine.on_batch(&mut startup, &mut batch, 0);
    let notified = tokio::time::timeout(Duration::from_secs(5), changes.changed()).await;
    assert!(notified.is_ok(), "the subscriber was not notified");
}

#[tokio::test]
async fn directory_has_the_names_of_gateways() {
    let (client, _requests) = mk_client();
    let (_is_leader, leadership) = watch::channel(false);
    let engine = mk_engine(client, leadership);
    let apply = |event: WatchEvent| engine.apply([event.update].into_iter(), None);
    let has_gateway = |name: &str| {
        let service = format!("{name}_demo_svc");
        let mesh = "default".into();
        engine
            .directory
            .read()
            .services
            .contains(&mesh, &service.as_str().into())
    };
    let gateway = |name: &str, ip: &str, kind: &str| {
        let annotations = json!({"kuma.io/sidecar-injected": "true", "kuma.io/gateway": kind});
        mk_pod_with_annotations(name, ip, annotations)
    };
    apply(gateway("kong", "10.0.0.3", "enabled"));
    apply(gateway("traefik", "10.0.0.4", "provided"));
    assert!(has_gateway("kong") && has_gateway("traefik"));
    apply(ObjectUpdate::Pod(Update::Gone(ObjectKey::new("demo", "kong"))).into());
    assert!(!has_gateway("kong"));
    assert!(has_gateway("traefik"));
}

#[tokio::test]
async fn services_that_come_or_go_are_notified_once_the_index_is_complete() {
    let (client, _requests) = mk_client();
    let mut engine = mk_engine(client, watch::channel(false).1);
    let mut changes = engine.service_changes.subscribe();
    let mut startup = Some(Startup {
        sync: InitialSync::default(),
        readiness_guard: Readiness::default().register("engine"),
    });
    let mut is_notified_of = |mut events: Vec<WatchEvent>| {
        engine.on_batch(&mut startup, &mut events, 0);
        let has_changed = changes.has_changed().expect("the engine has the sender");
        changes.mark_unchanged();
        has_changed
    };
    let ports = json!([{"port": 80, "targetPort": 8080}]);
    assert!(!is_notified_of(vec![mk_service("web", ports.clone())]));
    assert!(is_notified_of(ends_of_lists().collect()));
    assert!(is_notified_of(vec![mk_service("db", ports)]));
    let first_endpoint = vec![mk_pod("web-1", "10.0.0.1")];
    assert!(is_notified_of(first_endpoint));
    let second_endpoint = vec![mk_pod("web-2", "10.0.0.2")];
    assert!(!is_notified_of(second_endpoint));
    let deleted = ObjectUpdate::Service(Update::Gone(ObjectKey::new("demo", "db")));
    assert!(is_notified_of(vec![deleted.into()]));
}

/// Makes the event of a Namespace. A terminating one has a deletion timestamp.
fn mk_namespace(name: &str, labels: Value, is_terminating: bool) -> WatchEvent {
    let deletion = is_terminating.then_some("2026-01-01T00:00:00Z");
    let namespace = json!({"metadata": {"name": name, "labels": labels, "deletionTimestamp": deletion}});
    let namespace: Namespace = serde_json::from_value(namespace).expect("a Namespace");
    let facts = NamespaceFacts::from(&namespace);
    ObjectUpdate::Namespace(Update::Applied(ObjectKey::new("", name), facts)).into()
}

#[tokio::test]
async fn namespaces_with_injection_or_a_sidecar_get_the_roots_of_the_control_plane() {
    let (client, _requests) = mk_client();
    let engine = mk_engine(client, watch::channel(false).1);
    let namespaces = engine.sidecar_namespaces.clone();
    let apply = |events: Vec<WatchEvent>| {
        engine.apply(events.into_iter().map(|event| event.update), None);
    };
    let injected = json!({"kuma.io/sidecar-injection": "enabled"});
    apply(vec![
        mk_namespace("labelled", injected.clone(), false),
        mk_namespace("demo", json!({}), false),
        mk_namespace("other", json!({}), false),
        mk_namespace("deleted", injected.clone(), true),
    ]);
    assert!(namespaces.contains("labelled"));
    for without_sidecar in ["demo", "other", "deleted"] {
        assert!(!namespaces.contains(without_sidecar), "{without_sidecar}");
    }
    apply(vec![mk_pod("web", "10.0.0.1")]);
    assert!(
        namespaces.contains("demo"),
        "a Pod of the namespace has a sidecar"
    );
    apply(vec![
        mk_namespace("demo", json!({}), true),
        mk_namespace("labelled", injected, true),
        mk_pod("web", "10.0.0.1"),
    ]);
    assert!(!namespaces.contains("demo") && !namespaces.contains("labelled"));
}

/// Runs an engine on these events. Returns the virtual IPs of the mesh `default` at the end.
async fn virtual_ips_after(batches: impl IntoIterator<Item = ObjectUpdate>) -> VirtualIps {
    let (client, _requests) = mk_client();
    let (_is_leader_sender, is_leader) = watch::channel(false);
    let engine = mk_engine(client, is_leader);
    let index = engine.index.clone();
    let (sender, events) = mpsc::channel(MAX_BATCH_SIZE);
    for event in batches.into_iter().map(WatchEvent::from).chain(ends_of_lists()) {
        sender.send(event).await.expect("the engine's channel is open");
    }
    drop(sender);
    engine.run(events, Readiness::default().register("engine")).await;
    let index = index.read();
    index.view().virtual_ips(&"default".into()).clone()
}

#[tokio::test]
async fn virtual_ips_belong_to_their_config_map_and_not_to_the_mesh() {
    let config_map = || ObjectKey::new("system", "kuma-dns-vips");
    let mesh = || ObjectKey::new("", "default");
    let ips = VirtualIps::from([("web".into(), [240, 0, 0, 1].into())]);
    let stored = || {
        let by_mesh = [("default".into(), ips.clone())];
        ObjectUpdate::VirtualIps(Update::Applied(config_map(), by_mesh.into()))
    };
    let deleted = || ObjectUpdate::VirtualIps(Update::Gone(config_map()));
    let created = || ObjectUpdate::Mesh(Update::Applied(mesh(), kermode_model::Mesh::new("default")));
    let mesh_deleted = || ObjectUpdate::Mesh(Update::Gone(mesh()));
    assert_eq!(virtual_ips_after([stored(), created()]).await, ips);
    // The new Mesh gets the addresses of the deleted one.
    let events = [created(), stored(), mesh_deleted(), created()];
    assert_eq!(virtual_ips_after(events).await, ips);
    // No service is in use.
    assert_eq!(
        virtual_ips_after([created(), stored(), deleted()]).await,
        VirtualIps::new()
    );
}

#[tokio::test]
async fn end_of_an_application_is_reported_to_its_sidecar_even_before_the_first_publication() {
    let mk_job = |state: Value| {
        let pod = json!({
            "metadata": {
                "name": "job", "namespace": "demo", "uid": "uid-of-job",
                "annotations": {"kuma.io/sidecar-injected": "true"},
            },
            "spec": {"restartPolicy": "Never", "containers": [{"name": "app"}, {"name": "kuma-sidecar"}]},
            "status": {"podIP": "10.0.0.1", "phase": "Running", "containerStatuses": [
                {"name": "app", "state": state},
                {"name": "kuma-sidecar", "state": {"running": {}}},
            ]},
        });
        let pod: Pod = serde_json::from_value(pod).expect("a Pod");
        PodFacts::from(&pod)
    };
    let (_is_leader_sender, is_leader) = watch::channel(false);
    let engine = mk_engine(mk_client().0, is_leader);
    let job = ObjectKey::new("demo", "job");
    engine.index.write().apply_pod(mk_job(json!({"running": {}})));
    let mut changes = engine.index.changes_of(&job);
    let (sender, events) = mpsc::channel(MAX_BATCH_SIZE);
    let ended = mk_job(json!({"terminated": {"exitCode": 0}}));
    let event = ObjectUpdate::Pod(Update::Applied(job, ended)).into();
    sender.send(event).await.expect("the engine's channel is open");
    drop(sender);
    engine.run(events, Readiness::default().register("engine")).await;
    let notified = tokio::time::timeout(Duration::from_secs(5), changes.changed()).await;
    assert!(notified.is_ok(), "the sidecar was not notified");
}
