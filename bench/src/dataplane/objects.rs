//! The objects of `make bench-dataplane`: Namespaces, Services, and injected Pods with the statuses that kubelets would
//! write.

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Namespace, Pod, Service, ServiceAccount};
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Number of Services.
pub const SERVICES: usize = 500;
/// Number of namespaces that the Services are spread over.
const NAMESPACES: usize = 10;
/// Maximum number of concurrent requests.
const CONCURRENCY: usize = 32;

/// Returns namespace and name of a Pod by its number.
pub fn pod_key(pod_number: usize) -> (String, String) {
    (namespace(pod_number % SERVICES), format!("pod-{pod_number}"))
}

/// Returns the namespace of a Service and its Pods.
fn namespace(service_number: usize) -> String {
    format!("bench-{}", service_number % NAMESPACES)
}

/// Creates all objects. The Pods are running and ready.
///
/// # Errors
/// When the API server rejects a request.
pub async fn create_all(client: &Client, pods: usize) -> Result<()> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    for number in 0..NAMESPACES {
        let name = format!("bench-{number}");
        let object = serde_json::from_value(json!({"metadata": {"name": name}}))?;
        namespaces.create(&PostParams::default(), &object).await?;
        // In a full cluster, the controller manager creates the default service account.
        let account = json!({"metadata": {"name": "default"}, "automountServiceAccountToken": false});
        create::<ServiceAccount>(client, &name, account).await?;
    }
    run_all((0..SERVICES).map(|number| create_service(client, number))).await?;
    run_all((0..pods).map(|number| create_pod(client, number))).await
}

async fn create_service(client: &Client, service_number: usize) -> Result<()> {
    create::<Service>(
        client,
        &namespace(service_number),
        service_manifest(service_number),
    )
    .await
}

async fn create_pod(client: &Client, pod_number: usize) -> Result<()> {
    let (namespace, name) = pod_key(pod_number);
    create::<Pod>(client, &namespace, pod_manifest(&name, pod_number)).await?;
    set_status(
        client,
        pod_number,
        json!({"status": running_status(pod_number, true)}),
    )
    .await
}

/// Sets a Pod's readiness.
///
/// # Errors
/// When the API server rejects a request.
pub async fn set_ready(client: &Client, pod_number: usize, ready: bool) -> Result<()> {
    set_status(
        client,
        pod_number,
        json!({"status": running_status(pod_number, ready)}),
    )
    .await
}

/// Sets the protocol of a Service's port. The Dataplane of every Pod of the Service contains the protocol.
///
/// # Errors
/// When the API server rejects a request.
pub async fn set_protocol(client: &Client, service_number: usize, protocol: &str) -> Result<()> {
    let name = format!("service-{service_number}");
    let api: Api<Service> = Api::namespaced(client.clone(), &namespace(service_number));
    let patch = json!([{"op": "add", "path": "/spec/ports/0/appProtocol", "value": protocol}]);
    let patch = Patch::<()>::Json(serde_json::from_value(patch)?);
    let patched = api.patch(&name, &PatchParams::default(), &patch).await;
    patched.with_context(|| format!("cannot patch Service {name}"))?;
    Ok(())
}

/// Updates the condition `PodScheduled` of a Pod, as kubelets update conditions from time to time. Dataplanes do not
/// depend on this condition.
///
/// # Errors
/// When the API server rejects a request.
pub async fn heartbeat(client: &Client, pod_number: usize, heartbeat_number: usize) -> Result<()> {
    let condition =
        json!({"type": "PodScheduled", "status": "True", "message": format!("heartbeat {heartbeat_number}")});
    set_status(client, pod_number, json!({"status": {"conditions": [condition]}})).await
}

/// Runs requests concurrently until all have succeeded or one has failed.
///
/// # Errors
/// When a request fails.
pub async fn run_all<F: Future<Output = Result<()>>>(requests: impl Iterator<Item = F>) -> Result<()> {
    futures::stream::iter(requests)
        .buffer_unordered(CONCURRENCY)
        .try_collect()
        .await
}

async fn set_status(client: &Client, pod_number: usize, patch: Value) -> Result<()> {
    let (namespace, name) = pod_key(pod_number);
    let api: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let patched = api
        .patch_status(&name, &PatchParams::default(), &Patch::Merge(patch))
        .await;
    patched.with_context(|| format!("cannot set the status of Pod {namespace}/{name}"))?;
    Ok(())
}

async fn create<K>(client: &Client, namespace: &str, object: Value) -> Result<()>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned
        + Serialize,
{
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    let created = api
        .create(&PostParams::default(), &serde_json::from_value(object)?)
        .await;
    created.with_context(|| format!("cannot create a {} in namespace {namespace}", K::kind(&())))?;
    Ok(())
}

fn service_manifest(service_number: usize) -> Value {
    json!({
        "metadata": {"name": format!("service-{service_number}")},
        "spec": {
            "selector": {"app": format!("app-{service_number}")},
            "ports": [{"port": 80, "targetPort": "http", "appProtocol": "http"}],
        },
    })
}

/// Returns a Pod as the injection webhook patches it.
fn pod_manifest(name: &str, pod_number: usize) -> Value {
    let app = format!("app-{}", pod_number % SERVICES);
    json!({
        "metadata": {
            "name": name,
            "labels": {"app": app, "version": "v1", "team": "bench", "pod-template-hash": "5d8f6c7b9"},
            "annotations": {
                "kuma.io/mesh": "default",
                "kuma.io/sidecar-injected": "true",
                "kuma.io/sidecar-uid": "5678",
                "kuma.io/transparent-proxying": "enabled",
                "kuma.io/transparent-proxying-inbound-port": "15006",
                "kuma.io/transparent-proxying-inbound-v6-port": "15010",
                "kuma.io/transparent-proxying-outbound-port": "15001",
                "kuma.io/transparent-proxying-ebpf": "disabled",
                "kuma.io/builtin-dns": "enabled",
                "kuma.io/builtin-dns-port": "15053",
                "kuma.io/virtual-probes": "enabled",
                "kuma.io/virtual-probes-port": "9000",
                "kuma.io/envoy-admin-port": "9901",
            },
        },
        "spec": {
            "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": 0,
            "containers": [
                {
                    "name": "app", "image": "example/app:v1",
                    "ports": [{"name": "http", "containerPort": 8080}],
                    "readinessProbe": {"httpGet": {"port": 9000, "path": "/8080/ready"}},
                },
                {"name": "kuma-sidecar", "image": "example/kuma-dp:v1"},
            ],
        },
    })
}

fn running_status(pod_number: usize, ready: bool) -> Value {
    let [_, b, c, d] = u32::try_from(pod_number + 1).unwrap_or(u32::MAX).to_be_bytes();
    let ip = format!("10.{b}.{c}.{d}");
    let running = json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}});
    let container = |name: &str, ready: bool| {
        json!({"name": name, "ready": ready, "started": true, "restartCount": 0, "image": "example:v1",
            "imageID": "example", "state": running})
    };
    json!({
        "phase": "Running",
        "podIP": ip,
        "podIPs": [{"ip": ip}],
        "containerStatuses": [container("app", ready), container("kuma-sidecar", true)],
    })
}
