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
/// Deadline for a replica that has just started to know all proxies, with a margin.
const CERTAIN: Duration = Duration::from_secs(90);
const FIRST: &str = "leaving-first";
const LEAVING: &str = "leaving";
const WITNESS: &str = "witness";
/// Number of attempts; each witness is connected to another replica with a probability of two thirds.
const WITNESSES: usize = 12;
/// Log line of the sidecar once no proxy sends new requests to it.
const COMPLETE: &str = "every proxy has acknowledged that this endpoint is gone";

pub(super) async fn removal_is_complete_when_the_proxies_of_all_replicas_have_acknowledged_it(
    world: &World,
) -> Result<Note> {
    replicated(world).await?;
    let outcome = follow(world).await;
    for pod in [FIRST, LEAVING, WITNESS] {
        remove(world, pod).await?;
    }
    outcome
}

async fn follow(world: &World) -> Result<Note> {
    let replicas = Replica::all(world).await?;
    // Replicas that have just started cannot know whether proxies are missing.
    departing(world, FIRST).await?;
    world.pods(APP).delete(FIRST, &DeleteParams::default()).await?;
    completed(world, FIRST).await?;

    let leaving = departing(world, LEAVING).await?;
    let own = Replica::of(&replicas, &leaving).await?;
    let (witness, other) = witness(world, &replicas, own).await?;
    let frozen = Frozen::program(&witness, "kuma-dp")?;
    let start_time = Instant::now();
    world.pods(APP).delete(LEAVING, &DeleteParams::default()).await?;
    until("the removal to wait for the witness", SOON, async || {
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
    ensure!(
        !log.contains(COMPLETE),
        "the removal does not wait for the witness:\n{log}"
    );
    let waited = start_time.elapsed();
    drop(frozen);
    let line = completed(world, LEAVING).await?;
    ensure!(line.contains(&format!("replicas={REPLICAS}")), "{line}");
    Ok(format!(
        "the removal waited {waited:.1?} for the frozen proxy: {}",
        line.trim()
    ))
}

/// Creates a server with a classic sidecar, which drains for its whole drain time: longer than the test.
async fn departing(world: &World, name: &str) -> Result<Pod> {
    let annotations = [
        ("kuma.io/sidecar-mode", "classic"),
        ("kuma.io/sidecar-drain-time", "120s"),
    ];
    start(world, name, &["server"], &annotations).await
}

/// Waits until a departing sidecar logs that its removal is complete, and returns the line.
async fn completed(world: &World, name: &str) -> Result<String> {
    let what = format!("the sidecar of {name} to log its complete removal");
    until(&what, CERTAIN, async || {
        let log = log(world, name).await?;
        let line = log.lines().find(|line| line.contains(COMPLETE));
        let line = line.unwrap_or_default().to_owned();
        Ok(when(!line.is_empty(), line, || log.clone()))
    })
    .await
}

/// Creates a client whose sidecar is connected to another replica than `own`, and returns both.
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

/// Creates a Pod and waits until it is ready. The client also calls servers made by this function.
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

/// Returns the log of a departing sidecar.
async fn log(world: &World, name: &str) -> Result<String> {
    let here = format!("--namespace={APP}");
    world
        .cluster
        .kubectl
        .run(&["logs", name, &here, "--container", SIDECAR])
        .await
}

/// Replica of the control plane, with access to its `/debug`.
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

    /// Returns the replica that the sidecar of a Pod is connected to.
    async fn of<'r>(replicas: &'r [Self], pod: &Pod) -> Result<&'r Self> {
        let proxy = format!("{}.{APP}", pod.name_any());
        until(&format!("the replica of {proxy}"), SOON, async || {
            for replica in replicas {
                let proxies: Value = serde_json::from_str(&replica.debug.get("/debug/proxies").await?)?;
                if !proxies[&proxy].is_null() {
                    return Ok(when(true, replica, String::new));
                }
            }
            Ok(when(false, &replicas[0], || "it is not connected".to_owned()))
        })
        .await
    }

    /// Returns the status of an open endpoint removal; null when there is none.
    async fn removal(&self, pod: &str) -> Result<Value> {
        let removals: Vec<Value> = serde_json::from_str(&self.debug.get("/debug/removals").await?)?;
        let proxy = format!("{pod}.{APP}");
        Ok(removals
            .into_iter()
            .find(|removal| removal["proxy"] == proxy)
            .unwrap_or_default())
    }
}
