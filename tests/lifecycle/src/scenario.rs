//! The changes of each scenario.

use anyhow::{Context, Result};
use futures::future::{join_all, try_join, try_join_all};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, Pod};
use kermode_harness::deployment::wait_for_rollout;
use kermode_harness::wait::{Progress, done_if, wait_for};
use kube::api::{EvictParams, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use std::time::Duration;

use crate::case::{Plan, Scenario};
use crate::objects::SERVER;
use crate::settings::Settings;
use crate::side::Side;

/// Time limit of an eviction that a PodDisruptionBudget delays, and of the rollout of the control plane.
const TIMEOUT: Duration = Duration::from_mins(4);

/// Makes the changes of a scenario on both sides.
pub(crate) async fn run(
    scenario: Scenario,
    sides: &[Side; 2],
    settings: &Settings,
    plan: &Plan,
    client: &kube::Client,
) -> Result<()> {
    let rounds = plan.rounds(scenario);
    match scenario {
        Scenario::Restart => both(sides, async |side| restart(side, rounds).await).await,
        Scenario::Scale => both(sides, async |side| scale(side, rounds, plan).await).await,
        Scenario::Eviction => both(sides, async |side| evict_each(side, rounds, plan).await).await,
        Scenario::Drain => {
            for _ in 0..rounds {
                drain(sides, plan, client).await?;
            }
            Ok(())
        }
        Scenario::ControlPlane => {
            for _ in 0..rounds {
                try_join(
                    restart_control_plane(settings, client),
                    both(sides, async |side| restart(side, 1).await),
                )
                .await?;
            }
            Ok(())
        }
    }
}

/// Makes changes on both sides at the same time. One side may be faster than the other.
async fn both(sides: &[Side; 2], change: impl AsyncFn(&Side) -> Result<()>) -> Result<()> {
    try_join(change(&sides[0]), change(&sides[1])).await.map(drop)
}

async fn restart(side: &Side, rounds: u32) -> Result<()> {
    for _ in 0..rounds {
        side.deployments().restart(SERVER).await?;
        side.wait_for_servers().await?;
    }
    Ok(())
}

/// The servers that end have ended before others start, so the remaining server has all requests meanwhile.
async fn scale(side: &Side, rounds: u32, plan: &Plan) -> Result<()> {
    for _ in 0..rounds {
        for replicas in [1, plan.replicas] {
            let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
            side.deployments()
                .patch_scale(SERVER, &PatchParams::default(), &patch)
                .await?;
            side.wait_for_servers().await?;
            side.wait_for_ended_servers(plan).await?;
        }
    }
    Ok(())
}

async fn evict_each(side: &Side, rounds: u32, plan: &Plan) -> Result<()> {
    for _ in 0..rounds {
        for server in side.ready_servers().await? {
            let name = server.name_any();
            evict(side, &name, true).await?;
            side.wait_for_replacements(&[name], plan).await?;
        }
    }
    Ok(())
}

/// Requests the eviction of a Pod. If a PodDisruptionBudget denies it, repeats the request with `retry`, as
/// `kubectl drain` does. Returns whether the Pod was evicted.
async fn evict(side: &Side, pod: &str, retry: bool) -> Result<bool> {
    let condition = format!("the eviction of {}/{pod}", side.namespace);
    wait_for(&condition, TIMEOUT, async || {
        match side.pods().evict(pod, &EvictParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 429 => {
                Ok(done_if(!retry, false, || status.message.clone()))
            }
            outcome => outcome.map(|_| Progress::Done(true)).map_err(Into::into),
        }
    })
    .await
}

/// Marks the node with the most servers as unschedulable, evicts its servers, waits until they have ended, and makes the
/// node schedulable again. If it is the only node, replacements can start only then, so the PodDisruptionBudget keeps one
/// server on it.
async fn drain(sides: &[Side; 2], plan: &Plan, client: &kube::Client) -> Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    let servers = try_join_all(sides.iter().map(Side::ready_servers)).await?;
    let all = nodes.list(&ListParams::default()).await?.items;
    let is_schedulable = |node: &&Node| {
        let spec = node.spec.as_ref();
        spec.is_none_or(|spec| {
            spec.unschedulable != Some(true) && spec.taints.iter().flatten().next().is_none()
        })
    };
    let schedulable: Vec<_> = all
        .iter()
        .filter(is_schedulable)
        .map(ResourceExt::name_any)
        .collect();
    let number_of_servers = |node: &&String| servers.iter().flatten().filter(|pod| is_on(pod, node)).count();
    let node = schedulable
        .iter()
        .max_by_key(number_of_servers)
        .context("no node is schedulable")?;
    let has_other_nodes = schedulable.len() > 1;
    nodes.cordon(node).await?;
    let evictions = sides.iter().zip(&servers).map(async |(side, servers)| {
        let on_node = servers.iter().filter(|pod| is_on(pod, node));
        let evicted = evict_all(side, on_node, has_other_nodes).await?;
        side.wait_for_ended_servers(plan).await?;
        anyhow::Ok(evicted)
    });
    let evicted = join_all(evictions).await;
    nodes.uncordon(node).await?;
    for (side, evicted) in sides.iter().zip(evicted) {
        side.wait_for_replacements(&evicted?, plan).await?;
    }
    Ok(())
}

/// Evicts servers. Returns the names of those that were evicted.
async fn evict_all<'a>(
    side: &Side,
    servers: impl Iterator<Item = &'a Pod>,
    retry: bool,
) -> Result<Vec<String>> {
    let mut evicted = Vec::new();
    for server in servers {
        let name = server.name_any();
        if evict(side, &name, retry).await? {
            evicted.push(name);
        }
    }
    Ok(evicted)
}

fn is_on(pod: &Pod, node: &str) -> bool {
    let name = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    name == Some(node)
}

async fn restart_control_plane(settings: &Settings, client: &kube::Client) -> Result<()> {
    let control_plane = settings
        .control_plane
        .as_ref()
        .context("the settings name no control plane")?;
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), &control_plane.namespace);
    deployments.restart(&control_plane.deployment).await?;
    wait_for_rollout(&deployments, &control_plane.deployment, TIMEOUT).await
}
