//! Replicas come and go while the client keeps calling: traffic follows without anybody's help.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::DeleteParams;

use crate::harness::demo::Counters;
use crate::harness::envoy::Envoy;
use crate::harness::runner::Note;
use crate::harness::wait::{until, when};
use crate::pods::ip;
use crate::world::{APP, SERVER, World};

/// From a pod being ready, or on its way out, to the client's Envoy and requests having followed.
const SOON: Duration = Duration::from_secs(30);
/// Requests to look at once traffic has followed: enough that a replica is not missed by chance.
const REQUESTS: u64 = 60;

pub(super) async fn more_replicas_are_used(world: &World) -> Result<Note> {
    changed(world, async || scale(world, 5).await).await
}

pub(super) async fn fewer_replicas_are_enough(world: &World) -> Result<Note> {
    changed(world, async || scale(world, 2).await).await
}

pub(super) async fn a_restart_is_followed(world: &World) -> Result<Note> {
    changed(world, async || world.restart(APP, "server").await).await
}

pub(super) async fn a_deleted_pod_is_replaced(world: &World) -> Result<Note> {
    changed(world, async || {
        let pods = world.ready_pods(APP, "server").await?;
        let name = pods.first().context("no server is ready")?.name_any();
        world.pods(APP).delete(&name, &DeleteParams::default()).await?;
        until(
            &format!("a replacement of {name}"),
            Duration::from_mins(1),
            async || {
                let now = world.ready_pods(APP, "server").await?;
                let replaced = now.len() == pods.len() && now.iter().all(|pod| pod.name_any() != name);
                Ok(when(replaced, (), || {
                    format!("{} of {} ready", now.len(), pods.len())
                }))
            },
        )
        .await
    })
    .await
}

/// Makes a change while the client calls, waits until its Envoy knows exactly the pods that are ready and all of them
/// answer, and tells how many requests failed on the way.
async fn changed(world: &World, change: impl AsyncFnOnce() -> Result<()>) -> Result<Note> {
    world.deployed().await?;
    let before = world.counters().await?;
    change().await?;
    let client = world.pod(APP, "client").await?;
    let envoy = Envoy::new(&world.cluster.kubectl, APP, &client, "client");
    let pods = until(
        "the client's Envoy to know the pods that are ready",
        SOON,
        async || {
            let pods = world.ready_pods(APP, "server").await?;
            let expected: BTreeSet<String> = pods.iter().map(address).collect::<Result<_>>()?;
            let found = envoy.endpoints(SERVER).await?;
            let found: BTreeSet<String> = found
                .iter()
                .map(|endpoint| endpoint.address.to_string())
                .collect();
            Ok(when(found == expected, pods, || {
                format!("it knows {found:?}, ready are {expected:?}")
            }))
        },
    )
    .await?;
    let names: BTreeSet<String> = pods.iter().map(ResourceExt::name_any).collect();
    let followed = world.counters().await?;
    let after = until("answers from all replicas and only from them", SOON, async || {
        let now = world.counters().await?;
        let gained = now.since(&followed);
        let answered: BTreeSet<String> = gained.by_pod.keys().cloned().collect();
        let good = gained.succeeded >= REQUESTS && answered.is_superset(&names);
        Ok(when(good, now, || {
            format!("answers from {answered:?} of {names:?}; {}", gained.failures())
        }))
    })
    .await?;
    only(&after.since(&followed), &names)?;
    Ok(after.since(&before).failures())
}

/// A pod that is no endpoint any more may still answer what it was sent before, but not more than that.
fn only(gained: &Counters, names: &BTreeSet<String>) -> Result<()> {
    let late: u64 = gained
        .by_pod
        .iter()
        .filter(|(pod, _)| !names.contains(*pod))
        .map(|(_, count)| count)
        .sum();
    anyhow::ensure!(
        late <= 5,
        "{late} answers from pods that are gone: {:?}, not {names:?}",
        gained.by_pod
    );
    Ok(())
}

/// Has so many servers of the application.
pub(super) async fn scale(world: &World, replicas: usize) -> Result<()> {
    let (here, replicas_flag) = (format!("--namespace={APP}"), format!("--replicas={replicas}"));
    world
        .cluster
        .kubectl
        .run(&["scale", "deployment/server", &here, &replicas_flag])
        .await?;
    world.rolled_out(APP, "server").await
}

fn address(pod: &Pod) -> Result<String> {
    Ok(format!("{}:8080", ip(pod)?))
}
