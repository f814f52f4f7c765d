//! A namespace of a real API server, and replicas that write Dataplanes to the namespace. Pods exist only in the
//! indexes of the replicas.
//!
//! A replica deletes Dataplanes of unknown Pods, so tests run one at a time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use k8s_openapi::api::events::v1::Event;
use kermode_crds::{Dataplane, definition};
use kermode_k8s::controller::recorder::EventRecorder;
use kermode_k8s::controller::writer::{DesiredDataplane, DesiredSource, Metrics, Writer};
use kermode_k8s::convert::facts::{NamespaceFacts, PodFacts, ServiceFacts};
use kermode_k8s::index::{Changes, DataplaneChange, Index};
use kermode_model::{Mesh, MeshName, ObjectKey};
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DynamicObject, ObjectMeta};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::{MutexGuard, OnceCell, watch};
use tokio::task::JoinSet;

/// Time after which a test fails if the API server has not reached the expected state.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(20);
/// Set once the CustomResourceDefinitions have been applied.
static DEFINITIONS: OnceCell<()> = OnceCell::const_new();
/// Held by the running test.
static RUNNING_TEST: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// A namespace of the API server.
pub(crate) struct Fixture {
    pub(crate) client: Client,
    pub(crate) namespace: String,
    pub(crate) dataplanes: Api<DynamicObject>,
    /// `None` in a further fixture of the same test.
    _running_test: Option<MutexGuard<'static, ()>>,
}

/// A leading replica. Its Pods exist only in its index.
pub(crate) struct TestReplica {
    index: TestIndex,
    pub(crate) writer: Writer,
    _leader_sender: watch::Sender<bool>,
    _tasks: JoinSet<()>,
}

#[derive(Clone, Default)]
struct TestIndex(Arc<Mutex<Index>>);

impl DesiredSource for TestIndex {
    fn desired(&self, key: &ObjectKey) -> Option<DesiredDataplane> {
        let index = self.0.lock().unwrap();
        index.desired(key).map(|desired| DesiredDataplane {
            dataplane: desired.dataplane.clone(),
            pod_uid: desired.pod_uid.clone(),
        })
    }

    fn keys(&self) -> Vec<ObjectKey> {
        let index = self.0.lock().unwrap();
        index
            .all_desired()
            .map(|desired| desired.dataplane.key.clone())
            .collect()
    }

    fn is_terminating(&self, namespace: &str) -> bool {
        self.0.lock().unwrap().is_terminating(namespace)
    }

    fn mesh_exists(&self, mesh: &MeshName) -> bool {
        self.0.lock().unwrap().view().mesh(mesh).is_some()
    }
}

/// Returns the `containerStatuses` of a Pod with the status of the application's container only.
pub(crate) fn container_statuses(is_ready: bool) -> Value {
    json!([{"name": "app", "ready": is_ready, "image": "", "imageID": "", "restartCount": 0}])
}

pub(crate) fn pod_json(
    namespace: &str,
    name: &str,
    ip: &str,
    labels: &Value,
    container_statuses: &Value,
) -> Value {
    json!({
        "metadata": {
            "name": name, "namespace": namespace, "uid": format!("uid-of-{name}"), "labels": labels,
            "annotations": {"kuma.io/sidecar-injected": "true"},
        },
        "spec": {"containers": [
            {"name": "app", "ports": [{"containerPort": 8080, "name": "http"}]},
            {"name": "kuma-sidecar"},
        ]},
        "status": {"podIP": ip, "phase": "Running", "containerStatuses": container_statuses},
    })
}

impl Fixture {
    /// Waits until no other test runs, and creates a namespace whose name begins with `prefix`.
    pub(crate) async fn start(prefix: &str) -> Self {
        let running_test = RUNNING_TEST.lock().await;
        let client = Client::try_default()
            .await
            .expect("KUBECONFIG must name an API server; make test-api-server sets it");
        DEFINITIONS
            .get_or_init(|| apply_definitions(client.clone()))
            .await;
        let namespace = format!("{prefix}-{:x}", std::process::id());
        create_namespace(&client, &namespace).await;
        let resource = ApiResource::erase::<Dataplane>(&());
        Self {
            dataplanes: Api::namespaced_with(client.clone(), &namespace, &resource),
            client,
            namespace,
            _running_test: Some(running_test),
        }
    }

    /// Creates an object by a request to `path`. Returns the object as the API server would store or stores it, or the
    /// error of the API server.
    pub(crate) async fn create(&self, path: &str, object: &Value) -> Result<Value, String> {
        let request = http::Request::post(path)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(object.to_string().into_bytes())
            .unwrap();
        self.client.request(request).await.map_err(|error| match error {
            kube::Error::Api(status) => status.message.clone(),
            other => other.to_string(),
        })
    }

    /// Creates a Mesh as a dry run; returns the error of the API server.
    pub(crate) async fn create_mesh_as_dry_run(&self, name: &str, spec: Value) -> Result<(), String> {
        let api: Api<DynamicObject> = Api::all_with(
            self.client.clone(),
            &ApiResource::erase::<kermode_crds::Mesh>(&()),
        );
        let object = json!({"apiVersion": "kuma.io/v1alpha1", "kind": "Mesh", "metadata": {"name": name}, "spec": spec});
        let params = PostParams {
            dry_run: true,
            ..PostParams::default()
        };
        let created = api
            .create(&params, &serde_json::from_value(object).unwrap())
            .await;
        created.map(drop).map_err(|error| error.to_string())
    }

    /// Starts a replica that knows all desired Dataplanes, so it deletes the others.
    pub(crate) fn start_replica(&self) -> TestReplica {
        let replica = self.start_replica_before_first_lists();
        replica.writer.set_desired_complete();
        replica
    }

    /// Starts a replica that does not know all desired Dataplanes yet, as if its watches had not delivered their first
    /// lists.
    pub(crate) fn start_replica_before_first_lists(&self) -> TestReplica {
        let replica = self.start_replica_without_mesh();
        replica.apply_mesh("default");
        replica
    }

    /// Starts a replica that knows no Mesh, and does not know all desired Dataplanes yet.
    pub(crate) fn start_replica_without_mesh(&self) -> TestReplica {
        let index = TestIndex::default();
        index
            .0
            .lock()
            .unwrap()
            .apply_service(web_service(&self.namespace));
        let events = EventRecorder::start(self.client.clone(), None);
        let writer = Writer::new(self.client.clone(), index.clone(), events, Metrics::default());
        let (leader_sender, is_leader) = watch::channel(true);
        let mut tasks = JoinSet::new();
        tasks.spawn(writer.clone().watch(|_| ()));
        tasks.spawn(writer.clone().run(is_leader));
        TestReplica {
            index,
            writer,
            _leader_sender: leader_sender,
            _tasks: tasks,
        }
    }

    /// Applies a Pod of the Service `web` to the index of a replica.
    pub(crate) async fn apply_pod(&self, replica: &TestReplica, name: &str, is_ready: bool) {
        self.apply_labelled(replica, name, &json!({"app": "web"}), is_ready)
            .await;
    }

    /// Applies a Pod with other labels to the index of a replica.
    pub(crate) async fn relabel(&self, replica: &TestReplica, name: &str, labels: &Value) {
        self.apply_labelled(replica, name, labels, true).await;
    }

    async fn apply_labelled(&self, replica: &TestReplica, name: &str, labels: &Value, is_ready: bool) {
        // Tests apply the Pod `sentinel` last and wait for its Dataplane, so that all earlier writes are complete. The
        // Pod has an IP of its own: of two Pods with one IP, only one has ready inbounds.
        let ip = if name == "sentinel" {
            "10.0.0.3"
        } else {
            "10.0.0.1"
        };
        let pod = pod_json(&self.namespace, name, ip, labels, &container_statuses(is_ready));
        self.apply(replica, pod).await;
    }

    /// Applies a Pod without labels, in a mesh, to the index of a replica.
    pub(crate) async fn apply_pod_of_mesh(&self, replica: &TestReplica, name: &str, mesh: &str) {
        let mut pod = pod_json(
            &self.namespace,
            name,
            "10.0.0.2",
            &json!({}),
            &container_statuses(true),
        );
        pod["metadata"]["annotations"]["kuma.io/mesh"] = mesh.into();
        self.apply(replica, pod).await;
    }

    async fn apply(&self, replica: &TestReplica, pod: Value) {
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let changes = replica.index.0.lock().unwrap().apply_pod(PodFacts::from(&pod));
        replica.enqueue_changed(changes);
        tokio::task::yield_now().await;
    }

    /// Deletes the namespace, and applies its terminating state to the index of a replica. The namespace stays
    /// terminating, because no controller manager runs.
    pub(crate) async fn delete_namespace(&self, replica: &TestReplica) {
        let api: Api<Namespace> = Api::all(self.client.clone());
        api.delete(&self.namespace, &kube::api::DeleteParams::default())
            .await
            .expect("the deletion succeeds");
        let namespace = api
            .get(&self.namespace)
            .await
            .expect("the Namespace is terminating");
        assert!(namespace.metadata.deletion_timestamp.is_some());
        let facts = NamespaceFacts::from(&namespace);
        replica.index.0.lock().unwrap().apply_namespace(facts);
    }

    /// Applies the Pod `sentinel` in another namespace and waits for its Dataplane. All earlier writes are then
    /// complete.
    pub(crate) async fn wait_for_sentinel_in_other_namespace(&self, replica: &TestReplica) {
        let namespace = format!("{}-other", self.namespace);
        create_namespace(&self.client, &namespace).await;
        let other = Self {
            client: self.client.clone(),
            dataplanes: Api::namespaced_with(
                self.client.clone(),
                &namespace,
                &ApiResource::erase::<Dataplane>(&()),
            ),
            namespace,
            _running_test: None,
        };
        other.apply_pod(replica, "sentinel", true).await;
        other.wait_for_dataplane("sentinel", |_| true).await;
    }

    /// Waits until a Dataplane satisfies a condition.
    pub(crate) async fn wait_for_dataplane(&self, name: &str, condition: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let found = self.dataplanes.get_opt(name).await.expect("a response");
            let found = serde_json::to_value(found).unwrap();
            if !found.is_null() && condition(&found) {
                return found;
            }
            assert!(
                Instant::now() < deadline,
                "Dataplane {name} does not satisfy the condition: {found:#}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn wait_until_deleted(&self, name: &str) {
        let deadline = Instant::now() + TIMEOUT;
        while self.dataplanes.get_opt(name).await.expect("a response").is_some() {
            assert!(Instant::now() < deadline, "Dataplane {name} is not deleted");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn events(&self, pod: &str) -> Vec<Event> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), &self.namespace);
        let all = api.list(&ListParams::default()).await.expect("a list").items;
        let about = |event: &Event| {
            event
                .regarding
                .as_ref()
                .is_some_and(|object| object.name.as_deref() == Some(pod))
        };
        all.into_iter().filter(about).collect()
    }

    pub(crate) async fn wait_for_event(&self, pod: &str, reason: &str) {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let events = self.events(pod).await;
            if events.iter().any(|event| event.reason.as_deref() == Some(reason)) {
                return;
            }
            assert!(Instant::now() < deadline, "no Event {reason} among {events:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl TestReplica {
    /// Applies a Mesh to the index of the replica.
    pub(crate) fn apply_mesh(&self, name: &str) {
        let mesh = Mesh::new(name);
        let name = mesh.name.clone();
        self.index.0.lock().unwrap().apply_mesh(mesh);
        self.writer.mesh_changed(&name);
    }

    fn enqueue_changed(&self, changes: Changes) {
        for change in changes.dataplanes {
            match change {
                DataplaneChange::Upsert { dataplane, .. } => self.writer.enqueue(dataplane.key.clone()),
                DataplaneChange::Delete(key) => self.writer.enqueue(key),
                DataplaneChange::Failed { error, .. } => panic!("{error}"),
            }
        }
    }
}

/// Returns the Service `web`, which selects the Pods with the label `app: web`.
fn web_service(namespace: &str) -> ServiceFacts {
    let service: Service = serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": namespace},
        "spec": {"selector": {"app": "web"}, "clusterIP": "10.96.0.9",
            "ports": [{"port": 80, "targetPort": 8080}]},
    }))
    .unwrap();
    ServiceFacts::from(&service)
}

async fn apply_definitions(client: Client) {
    let resource = ApiResource {
        group: "apiextensions.k8s.io".to_owned(),
        version: "v1".to_owned(),
        api_version: "apiextensions.k8s.io/v1".to_owned(),
        kind: "CustomResourceDefinition".to_owned(),
        plural: "customresourcedefinitions".to_owned(),
    };
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    let params = PatchParams::apply("test").force();
    for object in definition::all() {
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        api.patch(&name, &params, &Patch::Apply(object))
            .await
            .expect("the definition is applied");
    }
    let dataplanes = Api::<DynamicObject>::all_with(client, &ApiResource::erase::<Dataplane>(&()));
    let deadline = Instant::now() + TIMEOUT;
    while dataplanes.list(&ListParams::default().limit(1)).await.is_err() {
        assert!(Instant::now() < deadline, "Dataplanes are not served");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn create_namespace(client: &Client, name: &str) {
    let namespace = Namespace {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(BTreeMap::new()),
            ..ObjectMeta::default()
        },
        ..Namespace::default()
    };
    let created = Api::all(client.clone())
        .create(&PostParams::default(), &namespace)
        .await;
    assert_eq!(created.expect("a namespace").name_any(), name);
}
