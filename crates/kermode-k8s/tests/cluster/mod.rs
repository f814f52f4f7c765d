//! The objects of the corpus (`tests/corpus`) as a cluster has them: the Pods are injected and run.

use std::collections::BTreeMap;

use kermode_corpus::{Corpus, name};
use kermode_inject::{Context, Outcome, Settings, inject};
use kermode_k8s::convert::dataplane_object;
use kermode_k8s::convert::facts::{NamespaceFacts, PodFacts, ServiceFacts};
use kermode_k8s::index::{DesiredDataplane, Index};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Decodes an object.
pub(crate) fn decode<T: DeserializeOwned>(object: &Value) -> T {
    serde_json::from_value(object.clone()).unwrap_or_else(|error| panic!("{}: {error}", name(object)))
}

/// Returns all Pods that injection accepts, as they are when they run. Some have IPs of both families, some of one.
fn running_pods(corpus: &Corpus) -> Vec<Value> {
    let pods = corpus.pods.iter().filter_map(|pod| injected(corpus, pod));
    pods.enumerate()
        .map(|(index, mut pod)| {
            let metadata = &mut pod["metadata"];
            if let Some(prefix) = metadata["generateName"].as_str().map(str::to_owned) {
                // The API server cuts a longer prefix.
                let prefix: String = prefix.chars().take(58).collect();
                metadata["name"] = format!("{prefix}{index}").into();
            }
            metadata["uid"] = format!("uid-{index}").into();
            let ips = [format!("10.1.0.{index}"), format!("2001:db8::{index:x}")];
            let ips = match index % 3 {
                0 => &ips[..1],
                1 => &ips[1..],
                _ => &ips[..],
            };
            let listed: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip})).collect();
            pod["status"] = json!({
                "phase": "Running", "podIP": ips[0], "podIPs": listed,
                "conditions": [{"type": "Ready", "status": "True"}],
                "containerStatuses": statuses(&pod["spec"]["containers"]),
                "initContainerStatuses": statuses(&pod["spec"]["initContainers"]),
            });
            pod
        })
        .collect()
}

fn statuses(containers: &Value) -> Vec<Value> {
    let containers = containers.as_array().map_or(&[][..], Vec::as_slice);
    let status = |container: &Value| json!({"name": container["name"], "ready": true, "image": "", "imageID": "", "restartCount": 0});
    containers.iter().map(status).collect()
}

/// Injects a Pod of a Namespace.
pub(crate) fn inject_into(
    namespace: &Value,
    pod: &Value,
    settings: &Settings,
) -> Result<Outcome, kermode_inject::Denial> {
    let map = |name: &str| -> BTreeMap<String, String> {
        serde_json::from_value(namespace["metadata"][name].clone()).unwrap_or_default()
    };
    let context = Context {
        namespace: kermode_inject::Namespace {
            name: namespace["metadata"]["name"].as_str().expect("a name"),
            labels: &map("labels"),
            annotations: &map("annotations"),
        },
        control_plane_url: "https://kuma-control-plane.kong-mesh-system:5678",
        control_plane_ca_pem: "CA",
        mesh_exists: &|name| name == "default",
        container_patch: &|_| None,
        oldest_node: None,
    };
    inject(pod, settings, &context)
}

/// Returns a Pod after its injection; `None` if the Pod gets no sidecar.
fn injected(corpus: &Corpus, pod: &Value) -> Option<Value> {
    let namespace = corpus.namespace_of(pod).expect("the Namespace of the Pod");
    let Ok(Outcome::Injected(injection)) = inject_into(namespace, pod, &Settings::default()) else {
        return None;
    };
    let mut after = pod.clone();
    json_patch::patch(&mut after, &injection.patch).expect("the patch applies");
    Some(after)
}

/// Applies an object. Returns whether anything changed.
pub(crate) fn apply(index: &mut Index, object: &Value) -> bool {
    let changes = match object["kind"].as_str() {
        Some("Pod") => index.apply_pod(PodFacts::from(&decode(object))),
        Some("Service") => index.apply_service(ServiceFacts::from(&decode(object))),
        Some("Namespace") => index.apply_namespace(NamespaceFacts::from(&decode(object))),
        other => panic!("{other:?}"),
    };
    !changes.is_empty()
}

/// An index of all objects, and the running Pods.
pub(crate) fn indexed(corpus: &Corpus) -> (Index, Vec<Value>) {
    let pods = running_pods(corpus);
    assert!(pods.len() >= 90, "only {} Pods are injected", pods.len());
    let mut index = Index::default();
    for object in corpus.namespaces.iter().chain(&corpus.services).chain(&pods) {
        apply(&mut index, object);
    }
    (index, pods)
}

/// Returns all Dataplanes as custom resources, by namespace and name.
pub(crate) fn dataplanes(index: &Index) -> BTreeMap<String, Value> {
    let object = |desired: DesiredDataplane<'_>| {
        let object = dataplane_object(desired.dataplane, desired.pod_uid);
        let key = desired.dataplane.key.to_string();
        (key, serde_json::to_value(object).expect("a Dataplane is JSON"))
    };
    index.all_desired().map(object).collect()
}
