//! Endpoint removal: a terminating sidecar is notified once no proxy can send it new requests.

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
use crate::harness::wait::{done_if, wait_for};
use crate::pods::{SIDECAR, is_ready, pod};
use crate::world::{APP, CONTROL_PLANE, SERVER_URL, SYSTEM, World};

const DEADLINE: Duration = Duration::from_secs(45);
/// Deadline of a removal at replicas that have just started and wait for their proxies to reconnect.
const COMPLETION_DEADLINE: Duration = Duration::from_secs(90);
const FIRST: &str = "removed-first";
const REMOVED: &str = "removed";
const CLIENT: &str = "remote-client";
/// Number of attempts to create a client at another replica; each succeeds with a probability of two thirds.
const ATTEMPTS: usize = 12;
/// Message that the sidecar logs once no proxy sends it new requests.
const COMPLETE: &str = "every proxy has acknowledged that this endpoint is gone";

pub(super) async fn removal_is_complete_when_the_proxies_of_all_replicas_have_acknowledged_it(
    world: &World,
) -> Result<Note> {
    replicated(world).await?;
    let outcome = removal_waits_for_all_replicas(world).await;
    for pod in [FIRST, REMOVED, CLIENT] {
        remove(world, pod).await?;
    }
    outcome
}

async fn removal_waits_for_all_replicas(world: &World) -> Result<Note> {
    let replicas = Replica::all(world).await?;
    // Replicas that have just started cannot know whether proxies are missing.
    draining_server(world, FIRST).await?;
    world.pods(APP).delete(FIRST, &DeleteParams::default()).await?;
    completion(world, FIRST).await?;

    let removed = draining_server(world, REMOVED).await?;
    let own = Replica::of(&replicas, &removed).await?;
    let (client, other) = remote_client(world, &replicas, own).await?;
    let frozen = Frozen::program(&client, "kuma-dp")?;
    let start_time = Instant::now();
    world.pods(APP).delete(REMOVED, &DeleteParams::default()).await?;
    wait_for(
        "the removal to wait for the remote client",
        DEADLINE,
        async || {
            let removal = other.removal(REMOVED).await?;
            let names = removal["amongThem"].to_string();
            Ok(done_if(names.contains(CLIENT), (), || {
                format!("{}: {removal}", other.name)
            }))
        },
    )
    .await?;
    wait_for(
        "all proxies of the Pod's own replica to have acknowledged",
        DEADLINE,
        async || {
            let removal = own.removal(REMOVED).await?;
            Ok(done_if(removal.is_null(), (), || {
                format!("{}: {removal}", own.name)
            }))
        },
    )
    .await?;
    let log = log(world, REMOVED).await?;
    ensure!(
        !log.contains(COMPLETE),
        "the removal does not wait for the remote client:\n{log}"
    );
    let waiting_time = start_time.elapsed();
    drop(frozen);
    let line = completion(world, REMOVED).await?;
    ensure!(line.contains(&format!("replicas={REPLICAS}")), "{line}");
    Ok(format!(
        "the removal waited {waiting_time:.1?} for the frozen proxy: {}",
        line.trim()
    ))
}

/// Creates a server with a classic sidecar, which drains for its whole drain time: longer than the test.
async fn draining_server(world: &World, name: &str) -> Result<Pod> {
    let annotations = [
        ("kuma.io/sidecar-mode", "classic"),
        ("kuma.io/sidecar-drain-time", "120s"),
    ];
    start(world, name, &["server"], &annotations).await
}

/// Waits until a terminating sidecar logs that its removal is complete, and returns the line.
async fn completion(world: &World, name: &str) -> Result<String> {
    let condition = format!("the sidecar of {name} to log that its removal is complete");
    wait_for(&condition, COMPLETION_DEADLINE, async || {
        let log = log(world, name).await?;
        let line = log.lines().find(|line| line.contains(COMPLETE));
        let line = line.unwrap_or_default().to_owned();
        Ok(done_if(!line.is_empty(), line, || log.clone()))
    })
    .await
}

/// Creates a client whose sidecar is connected to another replica than `own`, and returns both.
async fn remote_client<'r>(
    world: &World,
    replicas: &'r [Replica],
    own: &Replica,
) -> Result<(Pod, &'r Replica)> {
    for _ in 0..ATTEMPTS {
        let client = start(world, CLIENT, &["client", SERVER_URL, "--interval=100ms"], &[]).await?;
        let replica = Replica::of(replicas, &client).await?;
        if replica.name != own.name {
            return Ok((client, replica));
        }
        remove(world, CLIENT).await?;
    }
    anyhow::bail!("{ATTEMPTS} Pods in a row were connected to {}", own.name)
}

/// Creates a Pod and waits until it is ready. The Service also selects the servers that this function creates.
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
        .with_context(|| format!("Pod {name}"))?;
    wait_for(&format!("Pod {name} to be ready"), DEADLINE, async || {
        let pod = pods.get(name).await?;
        Ok(done_if(is_ready(&pod), pod.clone(), || {
            format!("{:?}", pod.status)
        }))
    })
    .await
}

/// Returns the log of a terminating sidecar.
async fn log(world: &World, name: &str) -> Result<String> {
    let namespace_flag = format!("--namespace={APP}");
    world
        .cluster
        .kubectl
        .run(&["logs", name, &namespace_flag, "--container", SIDECAR])
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
        wait_for(&format!("the replica of {proxy}"), DEADLINE, async || {
            for replica in replicas {
                let proxies: Value = serde_json::from_str(&replica.debug.get("/debug/proxies").await?)?;
                if !proxies[&proxy].is_null() {
                    return Ok(done_if(true, replica, String::new));
                }
            }
            Ok(done_if(false, &replicas[0], || "it is not connected".to_owned()))
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
