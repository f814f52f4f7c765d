//! What a departing sidecar hears of those who may still send it requests.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{ContainerPort, Pod};
use kube::ResourceExt;
use kube::api::{DeleteParams, PostParams};
use serde_json::Value;

use super::high_availability::{REPLICAS, remove, replicated};
use crate::harness::fault::Frozen;
use crate::harness::kubectl::Forward;
use crate::harness::runner::Note;
use crate::harness::wait::{until, when};
use crate::pods::{SIDECAR, is_ready, pod};
use crate::world::{APP, CONTROL_PLANE, SERVER_URL, SYSTEM, World};

const SOON: Duration = Duration::from_secs(45);
/// Until a replica that has just begun says for certain that it has missed nobody, and some more.
const CERTAIN: Duration = Duration::from_secs(90);
const FIRST: &str = "leaving-first";
const LEAVING: &str = "leaving";
const WITNESS: &str = "witness";
/// Each is connected to another replica with a probability of two thirds.
const WITNESSES: usize = 12;
/// What the sidecar logs when nobody will begin a request any more.
const OVER: &str = "every proxy has acknowledged that this endpoint is gone";

pub(super) async fn it_is_over_when_the_proxies_of_all_replicas_have_acknowledged_it(
    world: &World,
) -> Result<Note> {
    replicated(world).await?;
    let told = follow(world).await;
    for pod in [FIRST, LEAVING, WITNESS] {
        remove(world, pod).await?;
    }
    told
}

async fn follow(world: &World) -> Result<Note> {
    let replicas = Replica::all(world).await?;
    // Replicas that have just begun cannot know whom they have missed.
    departing(world, FIRST).await?;
    world.pods(APP).delete(FIRST, &DeleteParams::default()).await?;
    over(world, FIRST).await?;

    let leaving = departing(world, LEAVING).await?;
    let own = Replica::of(&replicas, &leaving).await?;
    let (witness, other) = witness(world, &replicas, own).await?;
    let frozen = Frozen::program(&witness, "kuma-dp")?;
    let begun = Instant::now();
    world.pods(APP).delete(LEAVING, &DeleteParams::default()).await?;
    until("the witness to be waited for", SOON, async || {
        let removal = other.removal(LEAVING).await?;
        let names = removal["amongThem"].to_string();
        Ok(when(names.contains(WITNESS), (), || {
            format!("{}: {removal}", other.name)
        }))
    })
    .await?;
    until(
        "all proxies of its own replica to have acknowledged",
        SOON,
        async || {
            let removal = own.removal(LEAVING).await?;
            Ok(when(removal.is_null(), (), || format!("{}: {removal}", own.name)))
        },
    )
    .await?;
    let log = log(world, LEAVING).await?;
    ensure!(!log.contains(OVER), "the witness is not waited for:\n{log}");
    let waited = begun.elapsed();
    drop(frozen);
    let line = over(world, LEAVING).await?;
    ensure!(line.contains(&format!("replicas={REPLICAS}")), "{line}");
    Ok(format!(
        "the frozen one was waited for, {waited:.1?} until it went on: {}",
        line.trim()
    ))
}

/// A server whose sidecar is an ordinary container, so that it drains for its whole time, and for as long as this takes.
async fn departing(world: &World, name: &str) -> Result<Pod> {
    let annotations = [
        ("kuma.io/sidecar-mode", "classic"),
        ("kuma.io/sidecar-drain-time", "120s"),
    ];
    start(world, name, &["server"], &annotations).await
}

/// Waits until a departing sidecar has heard that nobody will begin a request any more; its line of log.
async fn over(world: &World, name: &str) -> Result<String> {
    let what = format!("sidecar of {name} to hear of its end");
    until(&what, CERTAIN, async || {
        let log = log(world, name).await?;
        let line = log.lines().find(|line| line.contains(OVER));
        let line = line.unwrap_or_default().to_owned();
        Ok(when(!line.is_empty(), line, || log.clone()))
    })
    .await
}

/// A client whose sidecar is connected to another replica than `own`, and that replica.
async fn witness<'r>(world: &World, replicas: &'r [Replica], own: &Replica) -> Result<(Pod, &'r Replica)> {
    for _ in 0..WITNESSES {
        let witness = start(world, WITNESS, &["client", SERVER_URL, "--interval=100ms"], &[]).await?;
        let its = Replica::of(replicas, &witness).await?;
        if its.name != own.name {
            return Ok((witness, its));
        }
        remove(world, WITNESS).await?;
    }
    anyhow::bail!("{WITNESSES} pods in a row were connected to {}", own.name)
}

/// Makes a pod and waits until it is ready. A server is one more of those that the client calls.
async fn start(world: &World, name: &str, args: &[&str], annotations: &[(&str, &str)]) -> Result<Pod> {
    let mut new = pod(world, APP, name, args)?;
    new.labels_mut().insert("app".to_owned(), args[0].to_owned());
    let annotations = annotations
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    new.annotations_mut().extend(annotations);
    if let Some(spec) = &mut new.spec {
        spec.termination_grace_period_seconds = Some(150);
        let http = ContainerPort {
            name: Some("http".to_owned()),
            container_port: 8080,
            ..ContainerPort::default()
        };
        spec.containers[0].ports = Some(vec![http]);
    }
    let pods = world.pods(APP);
    pods.create(&PostParams::default(), &new)
        .await
        .with_context(|| format!("pod {name}"))?;
    until(&format!("pod {name} to be ready"), SOON, async || {
        let pod = pods.get(name).await?;
        Ok(when(is_ready(&pod), pod.clone(), || format!("{:?}", pod.status)))
    })
    .await
}

/// What the departing sidecar has logged.
async fn log(world: &World, name: &str) -> Result<String> {
    let here = format!("--namespace={APP}");
    world
        .cluster
        .kubectl
        .run(&["logs", name, &here, "--container", SIDECAR])
        .await
}

/// A replica of the control plane, and the way to its `/debug`.
struct Replica {
    name: String,
    debug: Forward,
}

impl Replica {
    async fn all(world: &World) -> Result<Vec<Self>> {
        let mut all = Vec::new();
        for pod in world.ready_pods(SYSTEM, CONTROL_PLANE).await? {
            let name = pod.name_any();
            let debug = world
                .cluster
                .kubectl
                .forward(SYSTEM, &format!("pod/{name}"), 5684)
                .await?;
            all.push(Self { name, debug });
        }
        Ok(all)
    }

    /// The one that a pod's sidecar is connected to.
    async fn of<'r>(replicas: &'r [Self], pod: &Pod) -> Result<&'r Self> {
        let proxy = format!("{}.{APP}", pod.name_any());
        until(&format!("the replica of {proxy}"), SOON, async || {
            for replica in replicas {
                let proxies: Value = serde_json::from_str(&replica.debug.get("/debug/proxies").await?)?;
                if !proxies[&proxy].is_null() {
                    return Ok(when(true, replica, String::new));
                }
            }
            Ok(when(false, &replicas[0], || "it is connected to none".to_owned()))
        })
        .await
    }

    /// The account of a pod's removal, while it is open.
    async fn removal(&self, pod: &str) -> Result<Value> {
        let removals: Vec<Value> = serde_json::from_str(&self.debug.get("/debug/removals").await?)?;
        let proxy = format!("{pod}.{APP}");
        Ok(removals
            .into_iter()
            .find(|removal| removal["proxy"] == proxy)
            .unwrap_or_default())
    }
}
