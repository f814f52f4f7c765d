//! Functions that build Pods for tests and read fields of Pods.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::jiff::Timestamp;
pub(crate) use kermode_harness::deployment::is_ready;
use kube::ResourceExt;
use kube::api::PostParams;
use serde_json::json;

use crate::fixture::Fixture;
use crate::harness::wait::{done_if, wait_for};

/// Name of the sidecar's container.
pub(crate) const SIDECAR: &str = "kuma-sidecar";

/// Returns a Pod as users write it, before injection. Its only container, which is always named `client`, runs the demo
/// program with these arguments.
///
/// The Pod ends without a delay. The kubelet executes commands by the name of a Pod, so they would reach the earlier Pod of
/// a name while that one still runs.
pub(crate) fn demo_pod(fixture: &Fixture, namespace: &str, name: &str, args: &[&str]) -> Result<Pod> {
    let annotations = json!({"kuma.io/application-stop-delay": "0s"});
    Ok(serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}, "annotations": annotations},
        "spec": {"containers": [{"name": "client", "image": fixture.cluster.image("kermode-demo")?, "args": args}]},
    }))?)
}

/// Creates a Pod and waits until it is ready. Returns the ready Pod.
pub(crate) async fn create_until_ready(fixture: &Fixture, pod: &Pod, within: Duration) -> Result<Pod> {
    let name = pod.name_any();
    let pods = fixture.pods(&pod.namespace().unwrap_or_default());
    pods.create(&PostParams::default(), pod)
        .await
        .with_context(|| format!("cannot create Pod {name}"))?;
    wait_for(&format!("Pod {name} to be ready"), within, async || {
        let pod = pods.get(&name).await?;
        Ok(done_if(is_ready(&pod), pod.clone(), || {
            format!("{:?}", pod.status)
        }))
    })
    .await
}

/// Returns a Node that is only an object: it has no machine, and no Pod is scheduled to it. Its kubelet claims this
/// version. After 50 s without a heartbeat, Kubernetes marks the Node and its Pods as not ready.
pub(crate) fn node_without_machine(name: &str, kubelet_version: &str) -> Result<Node> {
    // Without a time, Kubernetes uses the last heartbeat of an earlier Node with this name.
    let heartbeat = Timestamp::now().to_string();
    Ok(serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/os": "linux"}},
        "spec": {"taints": [{"key": "kermode-e2e", "effect": "NoSchedule"}]},
        "status": {
            "conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": heartbeat}],
            "nodeInfo": {
                "architecture": "", "bootID": "", "containerRuntimeVersion": "", "kernelVersion": "",
                "kubeProxyVersion": "", "kubeletVersion": kubelet_version, "machineID": "",
                "operatingSystem": "linux", "osImage": "", "systemUUID": "",
            },
        },
    }))?)
}

/// Creates a Pod with the injection label in a dry run and checks that the Pod gets a sidecar. A sidecar shows that the
/// API server calls the webhook and trusts the webhook's certificate.
pub(crate) async fn check_injection_in_dry_run(fixture: &Fixture) -> Result<()> {
    let admitted = injected_in_dry_run(fixture).await?;
    let (init_containers, containers) = container_names(&admitted);
    let has_sidecar = init_containers
        .iter()
        .chain(&containers)
        .any(|name| *name == SIDECAR);
    ensure!(
        has_sidecar,
        "the Pod of the dry run has no sidecar, only init containers {init_containers:?} and containers {containers:?}"
    );
    Ok(())
}

/// Creates a Pod with the injection label in a dry run. Returns the Pod as the API server admitted it.
pub(crate) async fn injected_in_dry_run(fixture: &Fixture) -> Result<Pod> {
    let mut pod = demo_pod(fixture, "default", "e2e-dry-run", &["server"])?;
    pod.labels_mut()
        .insert("kuma.io/sidecar-injection".to_owned(), "enabled".to_owned());
    let parameters = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    Ok(fixture.pods("default").create(&parameters, &pod).await?)
}

/// Returns the names of the init containers and the names of the other containers.
pub(crate) fn container_names(pod: &Pod) -> (Vec<&str>, Vec<&str>) {
    let spec = pod.spec.iter();
    let init = spec
        .clone()
        .flat_map(|spec| spec.init_containers.iter().flatten());
    (
        init.map(|container| container.name.as_str()).collect(),
        spec.flat_map(|spec| &spec.containers)
            .map(|container| container.name.as_str())
            .collect(),
    )
}

/// Returns the IP address of a Pod.
pub(crate) fn ip(pod: &Pod) -> Result<&str> {
    let ip = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref());
    ip.with_context(|| format!("Pod {} has no IP address", pod.name_any()))
}
