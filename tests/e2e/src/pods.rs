//! Pods: builders for tests, and accessors.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::PostParams;
use serde_json::json;

use crate::world::World;

/// Name of the sidecar's container.
pub(crate) const SIDECAR: &str = "kuma-sidecar";

/// Returns a Pod of the demo program, before injection.
pub(crate) fn pod(world: &World, namespace: &str, name: &str, args: &[&str]) -> Result<Pod> {
    Ok(serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
        "spec": {"containers": [{"name": "client", "image": world.cluster.image("kermode-demo")?, "args": args}]},
    }))?)
}

/// Creates a labelled Pod in a dry run and checks that it gets a sidecar, which shows that the API server calls the
/// webhook and trusts its certificate.
pub(crate) async fn dry_run(world: &World) -> Result<()> {
    let mut pod = pod(world, "default", "e2e-dry-run", &["server"])?;
    pod.labels_mut()
        .insert("kuma.io/sidecar-injection".to_owned(), "enabled".to_owned());
    let parameters = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let admitted = world.pods("default").create(&parameters, &pod).await?;
    let (init, containers) = containers(&admitted);
    let injected = init.iter().chain(&containers).any(|name| *name == SIDECAR);
    ensure!(
        injected,
        "the Pod of the dry run has no sidecar: {init:?} {containers:?}"
    );
    Ok(())
}

/// Returns the names of init containers and containers.
pub(crate) fn containers(pod: &Pod) -> (Vec<&str>, Vec<&str>) {
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

/// Whether a Pod is ready and not being deleted.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    let mut conditions = pod
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    let ready = conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True");
    ready && pod.metadata.deletion_timestamp.is_none()
}

/// Returns the IP address of a Pod.
pub(crate) fn ip(pod: &Pod) -> Result<&str> {
    let ip = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref());
    ip.with_context(|| format!("Pod {} has no IP address", pod.name_any()))
}
