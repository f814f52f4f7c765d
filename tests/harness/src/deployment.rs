//! Deployments and their Pods.

use std::time::Duration;

use anyhow::Result;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use crate::wait::{done_if, wait_for};

/// Waits until a Deployment is rolled out. Pods that are being deleted may still exist.
///
/// # Errors
/// The Deployment cannot be read, or is not rolled out in time.
pub async fn wait_for_rollout(deployments: &Api<Deployment>, name: &str, within: Duration) -> Result<()> {
    wait_for(&format!("the rollout of Deployment {name}"), within, async || {
        let deployment = deployments.get(name).await?;
        let desired = deployment
            .spec
            .as_ref()
            .and_then(|spec| spec.replicas)
            .unwrap_or(1);
        let status = deployment.status.clone().unwrap_or_default();
        let is_observed = status.observed_generation >= deployment.metadata.generation;
        let (updated, available) = (
            status.updated_replicas.unwrap_or(0),
            status.available_replicas.unwrap_or(0),
        );
        let done = is_observed
            && updated == desired
            && available >= desired
            && status.replicas.unwrap_or(0) == desired;
        Ok(done_if(done, (), || {
            format!("{available} of {desired} available, {updated} up to date")
        }))
    })
    .await
}

/// Returns the ready Pods whose label `app` has this value. The Pods are sorted by name; Pods that are being deleted are
/// left out.
pub async fn ready_pods(pods: &Api<Pod>, app: &str) -> Result<Vec<Pod>> {
    let selector = ListParams::default().labels(&format!("app={app}"));
    let mut pods = pods.list(&selector).await?.items;
    pods.retain(is_ready);
    pods.sort_by_key(ResourceExt::name_any);
    Ok(pods)
}

/// Whether a Pod is ready and not being deleted.
pub fn is_ready(pod: &Pod) -> bool {
    let mut conditions = pod
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    let ready = conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True");
    ready && pod.metadata.deletion_timestamp.is_none()
}
