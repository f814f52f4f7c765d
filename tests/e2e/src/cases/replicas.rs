//! Server replicas change while the client sends requests: traffic follows.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::DeleteParams;

use crate::harness::demo::Counters;
use crate::harness::envoy::Envoy;
use crate::harness::runner::Note;
use crate::harness::wait::{done_if, wait_for};
use crate::pods::ip;
use crate::world::{APP, SERVER, World};

/// Deadline from a change of the Pods until the client's Envoy uses it.
const DEADLINE: Duration = Duration::from_secs(30);
/// Number of requests to check after a change: enough that each replica certainly serves some.
const REQUESTS: u64 = 60;

pub(super) async fn traffic_follows_added_replicas(world: &World) -> Result<Note> {
    traffic_follows(world, async || scale(world, 5).await).await
}

pub(super) async fn traffic_follows_removed_replicas(world: &World) -> Result<Note> {
    traffic_follows(world, async || scale(world, 2).await).await
}

pub(super) async fn traffic_follows_a_rollout_restart(world: &World) -> Result<Note> {
    traffic_follows(world, async || world.restart(APP, "server").await).await
}

pub(super) async fn traffic_follows_the_replacement_of_a_deleted_pod(world: &World) -> Result<Note> {
    traffic_follows(world, async || {
        let pods = world.ready_pods(APP, "server").await?;
        let name = pods.first().context("no server is ready")?.name_any();
        world.pods(APP).delete(&name, &DeleteParams::default()).await?;
        wait_for(
            &format!("a replacement of {name}"),
            Duration::from_mins(1),
            async || {
                let now = world.ready_pods(APP, "server").await?;
                let replaced = now.len() == pods.len() && now.iter().all(|pod| pod.name_any() != name);
                Ok(done_if(replaced, (), || {
                    format!("{} of {} ready", now.len(), pods.len())
                }))
            },
        )
        .await
    })
    .await
}

/// Makes a change under traffic, then waits until the endpoints of the client's Envoy are exactly the ready Pods and all
/// of them respond. Reports the number of failed requests.
async fn traffic_follows(world: &World, change: impl AsyncFnOnce() -> Result<()>) -> Result<Note> {
    world.deployed().await?;
    let before = world.counters().await?;
    change().await?;
    let client = world.pod(APP, "client").await?;
    let envoy = Envoy::new(&world.cluster.kubectl, APP, &client, "client");
    let pods = wait_for(
        "the client's Envoy to have the ready Pods as endpoints",
        DEADLINE,
        async || {
            let pods = world.ready_pods(APP, "server").await?;
            let expected: BTreeSet<String> = pods.iter().map(address).collect::<Result<_>>()?;
            let found = envoy.endpoints(SERVER).await?;
            let found: BTreeSet<String> = found
                .iter()
                .map(|endpoint| endpoint.address.to_string())
                .collect();
            Ok(done_if(found == expected, pods, || {
                format!("it has {found:?}, ready are {expected:?}")
            }))
        },
    )
    .await?;
    let names: BTreeSet<String> = pods.iter().map(ResourceExt::name_any).collect();
    let followed = world.counters().await?;
    let after = wait_for("responses from all replicas", DEADLINE, async || {
        let now = world.counters().await?;
        let gained = now.since(&followed);
        let responding: BTreeSet<String> = gained.by_pod.keys().cloned().collect();
        let done = gained.succeeded >= REQUESTS && responding.is_superset(&names);
        Ok(done_if(done, now, || {
            format!(
                "responses from {responding:?} of {names:?}; {}",
                gained.failures()
            )
        }))
    })
    .await?;
    check_sources(&after.since(&followed), &names)?;
    Ok(after.since(&before).failures())
}

/// Checks that removed Pods respond only to the few requests that were already in flight.
fn check_sources(gained: &Counters, names: &BTreeSet<String>) -> Result<()> {
    let late: u64 = gained
        .by_pod
        .iter()
        .filter(|(pod, _)| !names.contains(*pod))
        .map(|(_, count)| count)
        .sum();
    anyhow::ensure!(
        late <= 5,
        "{late} responses from deleted Pods: {:?} instead of {names:?}",
        gained.by_pod
    );
    Ok(())
}

/// Scales the servers of the application and waits for the rollout.
pub(super) async fn scale(world: &World, replicas: usize) -> Result<()> {
    let (namespace_flag, replicas_flag) = (format!("--namespace={APP}"), format!("--replicas={replicas}"));
    world
        .cluster
        .kubectl
        .run(&["scale", "deployment/server", &namespace_flag, &replicas_flag])
        .await?;
    world.rolled_out(APP, "server").await
}

fn address(pod: &Pod) -> Result<String> {
    Ok(format!("{}:8080", ip(pod)?))
}
