//! Outage, restart and uninstallation of the control plane.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams, PostParams};

use crate::harness::runner::Note;
use crate::harness::wait::{Progress, done_if, wait_for};
use crate::pods::{dry_run, is_ready, pod};
use crate::world::{APP, CONTROL_PLANE, OUTSIDE, SYSTEM, World};

const DEADLINE: Duration = Duration::from_secs(45);

pub(super) async fn pods_of_labelled_namespaces_are_rejected_and_others_start_while_the_control_plane_is_down(
    world: &World,
) -> Result<Note> {
    world.deployed().await?;
    let before = world.counters().await?;
    scale(world, 0).await?;
    let outcome = while_down(world).await;
    scale(world, 1).await?;
    world.rolled_out(SYSTEM, CONTROL_PLANE).await?;
    outcome?;
    // The control plane is back, so Pods of the labelled namespace start.
    let late = pod(world, APP, "late", &["server"])?;
    let created = wait_for(
        "a Pod of the labelled namespace to be admitted",
        DEADLINE,
        async || {
            Ok(
                match world.pods(APP).create(&PostParams::default(), &late).await {
                    Ok(created) => Progress::Done(created),
                    Err(error) => Progress::NotYet(error.to_string()),
                },
            )
        },
    );
    created.await?;
    wait_for("Pod late to be ready", DEADLINE, async || {
        let ready = is_ready(&world.pods(APP).get("late").await?);
        Ok(done_if(ready, (), || "it is not ready".to_owned()))
    })
    .await?;
    world
        .pods(APP)
        .delete("late", &DeleteParams::default().grace_period(0))
        .await?;
    Ok(world.counters().await?.since(&before).failures())
}

/// Guards against a gap between the stop of the old replica and the start of the new one, in which Pods would be
/// rejected.
pub(super) async fn control_plane_restart_rejects_no_pod(world: &World) -> Result<Note> {
    world.installed().await?;
    dry_run(world).await?;
    let old = world.pod(SYSTEM, CONTROL_PLANE).await?;
    let restart = async {
        world.restart(SYSTEM, CONTROL_PLANE).await?;
        wait_for(
            "the old control plane's Pod to be deleted",
            DEADLINE,
            async || {
                let deleted = world.pods(SYSTEM).get_opt(&old).await?.is_none();
                Ok(done_if(deleted, (), || format!("{old} still exists")))
            },
        )
        .await
    };
    tokio::pin!(restart);
    let mut admitted = 0;
    loop {
        tokio::select! {
            restarted = &mut restart => break restarted?,
            outcome = dry_run(world) => {
                outcome.with_context(|| format!("after {admitted} Pods"))?;
                admitted += 1;
            }
        }
    }
    dry_run(world).await?;
    Ok(format!("{admitted} Pods admitted meanwhile"))
}

async fn while_down(world: &World) -> Result<()> {
    wait_for("the control plane's Pods to be deleted", DEADLINE, async || {
        let remaining = world.pods(SYSTEM).list(&ListParams::default()).await?.items.len();
        Ok(done_if(remaining == 0, (), || format!("{remaining} Pods remain")))
    })
    .await?;
    let rejected = pod(world, APP, "early", &["server"])?;
    match world.pods(APP).create(&PostParams::default(), &rejected).await {
        Err(kube::Error::Api(status)) => ensure!(
            status.message.contains("namespace-kuma-injector.kuma.io"),
            "rejected, but not by the webhook: {}",
            status.message
        ),
        Err(error) => return Err(error.into()),
        Ok(_) => {
            world
                .pods(APP)
                .delete("early", &DeleteParams::default().grace_period(0))
                .await?;
            anyhow::bail!("a Pod of a labelled namespace was admitted without a sidecar");
        }
    }
    let free = pod(world, OUTSIDE, "free", &["server"])?;
    world
        .pods(OUTSIDE)
        .create(&PostParams::default(), &free)
        .await
        .context("a Pod of another namespace")?;
    wait_for("a Pod of another namespace to be ready", DEADLINE, async || {
        let ready = is_ready(&world.pods(OUTSIDE).get("free").await?);
        Ok(done_if(ready, (), || "it is not ready".to_owned()))
    })
    .await?;
    world
        .pods(OUTSIDE)
        .delete("free", &DeleteParams::default().grace_period(0))
        .await?;
    let before = world.counters().await?;
    wait_for("responses to the client", DEADLINE, async || {
        let gained = world.counters().await?.since(&before);
        Ok(done_if(gained.succeeded >= 20, (), || gained.failures()))
    })
    .await
}

async fn scale(world: &World, replicas: u32) -> Result<()> {
    let (namespace_flag, replicas) = (format!("--namespace={SYSTEM}"), format!("--replicas={replicas}"));
    world
        .cluster
        .kubectl
        .run(&[
            "scale",
            &format!("deployment/{CONTROL_PLANE}"),
            &namespace_flag,
            &replicas,
        ])
        .await?;
    Ok(())
}

pub(super) async fn uninstallation_removes_everything(world: &World) -> Result<Note> {
    world.installed().await?;
    world.clear().await?;
    let kinds = "namespaces,customresourcedefinitions,clusterroles,clusterrolebindings,\
                 mutatingwebhookconfigurations,validatingwebhookconfigurations";
    let names = world
        .cluster
        .kubectl
        .run(&["get", kinds, "--output=name"])
        .await?;
    let remaining: Vec<&str> = names
        .lines()
        .filter(|line| {
            ["kuma", "kong-mesh", "kermode"]
                .iter()
                .any(|word| line.contains(word))
        })
        .collect();
    ensure!(remaining.is_empty(), "objects remain: {remaining:?}");
    let pods = world.pods("kube-system").list(&ListParams::default()).await?;
    ensure!(
        pods.iter().all(is_ready),
        "{:?}",
        pods.iter().map(ResourceExt::name_any).collect::<Vec<_>>()
    );
    Ok(String::new())
}
