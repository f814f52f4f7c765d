//! Endpoint removal: a terminating sidecar logs when the proxies of all replicas have acknowledged the removal of its
//! endpoint.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::{ContainerPort, Pod};
use kube::ResourceExt;
use kube::api::DeleteParams;
use serde_json::Value;

use super::high_availability::{REPLICAS, delete_pod, ensure_three_replicas};
use crate::fixture::{APP_NAMESPACE, CONTROL_PLANE, DEBUG_PORT, Fixture, SERVER_URL, SYSTEM_NAMESPACE};
use crate::harness::fault::FrozenProcess;
use crate::harness::kubectl::PortForward;
use crate::harness::runner::Note;
use crate::harness::wait::{Progress, done_if, wait_for};
use crate::pods::{SIDECAR, create_until_ready, demo_pod};

/// Time limit of a condition without a time limit of its own.
const TIMEOUT: Duration = Duration::from_secs(45);
/// Time limit of the completion of a removal. Replicas that have just started report no removal as complete for a
/// minute, because proxies may still be reconnecting.
const COMPLETION_TIMEOUT: Duration = Duration::from_secs(90);
/// Server whose endpoint removal shows that the replicas have been running long enough to report complete removals.
const FIRST_SERVER: &str = "removed-first";
/// Server whose endpoint removal must wait for the remote client.
const SECOND_SERVER: &str = "removed";
/// Client whose sidecar is connected to another replica than the sidecar of [`SECOND_SERVER`].
const REMOTE_CLIENT: &str = "remote-client";
/// Number of attempts to create [`REMOTE_CLIENT`]. With three replicas, each attempt succeeds with a probability of two
/// thirds.
const ATTEMPTS: usize = 12;
/// Message that the sidecar logs once the removal of its endpoint is complete.
const COMPLETION_MESSAGE: &str = "every proxy has acknowledged that this endpoint is gone";

pub(super) async fn removal_is_complete_when_the_proxies_of_all_replicas_have_acknowledged_it(
    fixture: &Fixture,
) -> Result<Note> {
    ensure_three_replicas(fixture).await?;
    let outcome = check_removal(fixture).await;
    for pod in [SECOND_SERVER, REMOTE_CLIENT] {
        delete_pod(fixture, pod).await?;
    }
    outcome
}

async fn check_removal(fixture: &Fixture) -> Result<Note> {
    let replicas = Replica::all(fixture).await?;
    wait_until_removals_complete(fixture).await?;
    let server = create_draining_server(fixture, SECOND_SERVER).await?;
    let server_replica = Replica::of_sidecar(&replicas, &server).await?;
    let (client, client_replica) = create_remote_client(fixture, &replicas, server_replica).await?;
    let frozen = FrozenProcess::freeze(&client, "kuma-dp")?;
    let deletion_time = Instant::now();
    fixture
        .pods(APP_NAMESPACE)
        .delete(SECOND_SERVER, &DeleteParams::default())
        .await?;
    wait_for("the removal to wait for the remote client", TIMEOUT, async || {
        let removal = client_replica.removal(SECOND_SERVER).await?;
        let pending_proxies = removal["examples"].to_string();
        Ok(done_if(pending_proxies.contains(REMOTE_CLIENT), (), || {
            format!("{}: {removal}", client_replica.name)
        }))
    })
    .await?;
    wait_for(
        "the server's own replica to complete the removal",
        TIMEOUT,
        async || {
            let removal = server_replica.removal(SECOND_SERVER).await?;
            Ok(done_if(removal.is_null(), (), || {
                format!("{}: {removal}", server_replica.name)
            }))
        },
    )
    .await?;
    let log = sidecar_log(fixture, SECOND_SERVER).await?;
    ensure!(
        !log.contains(COMPLETION_MESSAGE),
        "the removal does not wait for the remote client:\n{log}"
    );
    let waiting_time = deletion_time.elapsed();
    drop(frozen);
    let line = wait_for_completion(fixture, SECOND_SERVER).await?;
    ensure!(
        line.contains(&format!("replicas={REPLICAS}")),
        "not all {REPLICAS} replicas reported the removal as complete: {line}"
    );
    Ok(format!(
        "the removal waited {waiting_time:.1?} for the frozen proxy: {}",
        line.trim()
    ))
}

/// Waits until a removal completes: no replica waits for reconnecting proxies any more.
pub(super) async fn wait_until_removals_complete(fixture: &Fixture) -> Result<()> {
    let complete_removal = async {
        create_draining_server(fixture, FIRST_SERVER).await?;
        fixture
            .pods(APP_NAMESPACE)
            .delete(FIRST_SERVER, &DeleteParams::default())
            .await?;
        wait_for_completion(fixture, FIRST_SERVER).await
    };
    let outcome = complete_removal.await;
    delete_pod(fixture, FIRST_SERVER).await?;
    outcome.map(drop)
}

/// Creates a server with a classic sidecar. The drain time of the sidecar is longer than the test, so the terminating
/// sidecar serves until the test ends.
async fn create_draining_server(fixture: &Fixture, name: &str) -> Result<Pod> {
    let annotations = [
        ("kuma.io/sidecar-mode", "classic"),
        ("kuma.io/sidecar-drain-time", "120s"),
    ];
    create_ready_pod(fixture, name, &["server"], &annotations).await
}

/// Waits until a terminating sidecar logs that the removal of its endpoint is complete. Returns the line of the log.
async fn wait_for_completion(fixture: &Fixture, name: &str) -> Result<String> {
    let condition = format!("the sidecar of {name} to log that the removal of its endpoint is complete");
    wait_for(&condition, COMPLETION_TIMEOUT, async || {
        let log = sidecar_log(fixture, name).await?;
        let line = log.lines().find(|line| line.contains(COMPLETION_MESSAGE));
        let line = line.unwrap_or_default().to_owned();
        Ok(done_if(!line.is_empty(), line, || log.clone()))
    })
    .await
}

/// Creates a client whose sidecar is not connected to the server's replica. Returns the client and its replica.
async fn create_remote_client<'r>(
    fixture: &Fixture,
    replicas: &'r [Replica],
    server_replica: &Replica,
) -> Result<(Pod, &'r Replica)> {
    for _ in 0..ATTEMPTS {
        let client = create_ready_pod(
            fixture,
            REMOTE_CLIENT,
            &["client", SERVER_URL, "--interval=100ms"],
            &[],
        )
        .await?;
        let replica = Replica::of_sidecar(replicas, &client).await?;
        if replica.name != server_replica.name {
            return Ok((client, replica));
        }
        delete_pod(fixture, REMOTE_CLIENT).await?;
    }
    anyhow::bail!(
        "the sidecars of {ATTEMPTS} clients in a row connected to {}, the server's replica",
        server_replica.name
    )
}

/// Creates a Pod and waits until it is ready. The label `app` of the Pod is `args[0]`, so the application's Service
/// selects a Pod with the argument `server`.
pub(super) async fn create_ready_pod(
    fixture: &Fixture,
    name: &str,
    args: &[&str],
    annotations: &[(&str, &str)],
) -> Result<Pod> {
    let mut pod = demo_pod(fixture, APP_NAMESPACE, name, args)?;
    pod.labels_mut().insert("app".to_owned(), args[0].to_owned());
    let annotations = annotations
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    pod.annotations_mut().extend(annotations);
    if let Some(spec) = &mut pod.spec {
        // Longer than the drain time that `create_draining_server` sets.
        spec.termination_grace_period_seconds = Some(150);
        let http = ContainerPort {
            name: Some("http".to_owned()),
            container_port: 8080,
            ..ContainerPort::default()
        };
        spec.containers[0].ports = Some(vec![http]);
    }
    create_until_ready(fixture, &pod, TIMEOUT).await
}

/// Returns the log of a Pod's sidecar.
async fn sidecar_log(fixture: &Fixture, name: &str) -> Result<String> {
    let namespace_flag = format!("--namespace={APP_NAMESPACE}");
    fixture
        .cluster
        .kubectl
        .run(&["logs", name, &namespace_flag, "--container", SIDECAR])
        .await
}

/// Replica of the control plane, with its forwarded debug port.
struct Replica {
    name: String,
    debug: PortForward,
}

impl Replica {
    /// Returns all ready replicas.
    async fn all(fixture: &Fixture) -> Result<Vec<Self>> {
        let mut all = Vec::new();
        for pod in fixture.ready_pods(SYSTEM_NAMESPACE, CONTROL_PLANE).await? {
            let name = pod.name_any();
            let debug = fixture
                .cluster
                .kubectl
                .port_forward(SYSTEM_NAMESPACE, &format!("pod/{name}"), DEBUG_PORT)
                .await?;
            all.push(Self { name, debug });
        }
        Ok(all)
    }

    /// Returns the replica that the sidecar of a Pod is connected to.
    async fn of_sidecar<'r>(replicas: &'r [Self], pod: &Pod) -> Result<&'r Self> {
        let proxy_name = format!("{}.{APP_NAMESPACE}", pod.name_any());
        wait_for(
            &format!("a replica that {proxy_name} is connected to"),
            TIMEOUT,
            async || {
                for replica in replicas {
                    let proxies: Value = serde_json::from_str(&replica.debug.get("/debug/proxies").await?)?;
                    if !proxies[&proxy_name].is_null() {
                        return Ok(Progress::Done(replica));
                    }
                }
                Ok(Progress::NotYet(
                    "the proxy is connected to no replica".to_owned(),
                ))
            },
        )
        .await
    }

    /// Returns this replica's entry in `/debug/removals` for the endpoint of a Pod. Returns null if the removal has not
    /// begun, or if all proxies of this replica have acknowledged it.
    async fn removal(&self, pod: &str) -> Result<Value> {
        let removals: Vec<Value> = serde_json::from_str(&self.debug.get("/debug/removals").await?)?;
        let proxy_name = format!("{pod}.{APP_NAMESPACE}");
        Ok(removals
            .into_iter()
            .find(|removal| removal["proxy"] == proxy_name)
            .unwrap_or_default())
    }
}
