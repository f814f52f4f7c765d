//! Builders for tests of the index: facts of Kubernetes objects in the Namespace `demo`.

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kermode_model::ObjectKey;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::convert::facts::{EndpointSliceFacts, IntermediateFacts, NamespaceFacts, PodFacts, ServiceFacts};

fn decode<T: DeserializeOwned>(object: Value) -> T {
    serde_json::from_value(object).expect("an object of the requested kind")
}

/// Key of an object in the Namespace `demo`.
pub(crate) fn key(name: &str) -> ObjectKey {
    ObjectKey::new("demo", name)
}

/// JSON of an injected Pod; tests modify it before they decode it.
pub(super) fn pod_json(name: &str, ip: &str, labels: Value) -> Value {
    json!({
        "metadata": {
            "name": name, "namespace": "demo", "uid": format!("uid-of-{name}"), "labels": labels,
            "annotations": {"kuma.io/sidecar-injected": "true"},
        },
        "spec": {
            "serviceAccountName": "robot",
            "containers": [
                {"name": "app", "ports": [{"containerPort": 8080, "name": "http"}]},
                {"name": "kuma-sidecar"},
            ],
        },
        "status": {"podIP": ip, "phase": "Running", "containerStatuses": [{"name": "app", "ready": true}]},
    })
}

pub(super) fn read_pod(pod: &Value) -> PodFacts {
    PodFacts::from(&decode::<Pod>(pod.clone()))
}

pub(crate) fn mk_pod(name: &str, ip: &str, labels: Value) -> PodFacts {
    read_pod(&pod_json(name, ip, labels))
}

pub(crate) fn mk_service(name: &str, cluster_ip: &str, selector: Value, ports: Value) -> ServiceFacts {
    ServiceFacts::from(&decode::<Service>(json!({
        "metadata": {"name": name, "namespace": "demo"},
        "spec": {"selector": selector, "clusterIP": cluster_ip, "ports": ports},
    })))
}

/// `ports` and `endpoints` as in an EndpointSlice.
pub(super) fn mk_endpoint_slice(
    name: &str,
    service: &str,
    ports: Value,
    endpoints: Value,
) -> EndpointSliceFacts {
    let slice = decode::<EndpointSlice>(json!({
        "metadata": {"name": name, "namespace": "demo", "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "ports": ports, "endpoints": endpoints,
    }));
    EndpointSliceFacts::of(&slice).expect("a slice with a Service")
}

pub(super) fn mk_namespace(name: &str, mesh: Option<&str>) -> NamespaceFacts {
    let annotations = mesh.map_or(json!({}), |mesh| json!({"kuma.io/mesh": mesh}));
    NamespaceFacts::from(&decode::<Namespace>(
        json!({"metadata": {"name": name, "annotations": annotations}}),
    ))
}

pub(super) fn mk_replica_set(name: &str, deployment: Option<&str>) -> IntermediateFacts {
    let owners: Vec<_> = deployment
        .map(|name| json!({"kind": "Deployment", "name": name, "controller": true, "uid": "", "apiVersion": "apps/v1"}))
        .into_iter()
        .collect();
    IntermediateFacts::from(&decode::<ReplicaSet>(json!({
        "metadata": {"name": name, "namespace": "demo", "ownerReferences": owners},
    })))
}
