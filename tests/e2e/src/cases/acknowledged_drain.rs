//! Drain mode `acknowledged` and native sidecars, with three replicas of the control plane: a Pod without connections is
//! gone soon after its application has ended, unless a replica cannot say whether its proxies still use the endpoint.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kube::ResourceExt;
use kube::api::DeleteParams;

use super::endpoint_removal::{create_ready_pod, wait_until_removals_complete};
use super::high_availability::{delete_pod, ensure_three_replicas, wait_for_all_replicas};
use crate::fixture::{APP_NAMESPACE, CONTROL_PLANE, Fixture, SYSTEM_NAMESPACE};
use crate::harness::fault::FrozenProcess;
use crate::harness::runner::Note;
use crate::harness::wait::{done_if, wait_for};

/// Time limit of the end of a Pod. The grace period is longer.
const TIMEOUT: Duration = Duration::from_secs(100);
/// Drain time that is longer than the termination of a Pod may take. Only a sidecar that ends early ends before.
const LONG_DRAIN: Duration = Duration::from_mins(1);
/// Drain time that a sidecar has to wait for. Shorter than the time after which the kubelet restarts a frozen replica.
const SHORT_DRAIN: Duration = Duration::from_secs(15);
/// Server with a classic sidecar in drain mode `acknowledged`.
const CLASSIC: &str = "acknowledged-classic";
/// Server with a native sidecar.
const NATIVE: &str = "acknowledged-native";

pub(super) async fn pod_without_connections_ends_with_its_application_unless_a_replica_hangs(
    fixture: &Fixture,
) -> Result<Note> {
    ensure_three_replicas(fixture).await?;
    let outcome = check(fixture).await;
    for pod in [CLASSIC, NATIVE] {
        delete_pod(fixture, pod).await?;
    }
    outcome
}

async fn check(fixture: &Fixture) -> Result<Note> {
    wait_until_removals_complete(fixture).await?;
    let early = termination_times(fixture, LONG_DRAIN).await?;
    for (pod, took) in [CLASSIC, NATIVE].into_iter().zip(early) {
        ensure!(
            took < LONG_DRAIN / 2,
            "{pod} was gone after {took:?}, although no connection was open"
        );
    }

    let replicas = fixture.ready_pods(SYSTEM_NAMESPACE, CONTROL_PLANE).await?;
    let replica = replicas.first().context("no replica is ready")?;
    let [classic, native] = {
        create_servers(fixture, SHORT_DRAIN).await?;
        let _frozen = FrozenProcess::freeze(replica, "kuma-cp")?;
        terminate(fixture).await?
    };
    wait_for_all_replicas(fixture).await?;
    ensure!(
        classic >= SHORT_DRAIN,
        "{CLASSIC} was gone after {classic:?}, although replica {} could not say that no proxy uses its endpoint",
        replica.name_any()
    );
    Ok(format!(
        "classic and native sidecar gone after {:.1?} and {:.1?}; with a replica that hangs after {classic:.1?} and \
         {native:.1?}",
        early[0], early[1]
    ))
}

/// Creates the servers and terminates them. Returns the durations of their terminations: classic and native.
async fn termination_times(fixture: &Fixture, drain_time: Duration) -> Result<[Duration; 2]> {
    create_servers(fixture, drain_time).await?;
    terminate(fixture).await
}

async fn create_servers(fixture: &Fixture, drain_time: Duration) -> Result<()> {
    let drain_time = format!("{}s", drain_time.as_secs());
    let drain_time = ("kuma.io/sidecar-drain-time", drain_time.as_str());
    let classic = [
        drain_time,
        ("kuma.io/sidecar-mode", "classic"),
        ("kuma.io/drain-mode", "acknowledged"),
    ];
    let native = [drain_time, ("kuma.io/sidecar-mode", "native")];
    create_ready_pod(fixture, CLASSIC, &["server"], &classic).await?;
    create_ready_pod(fixture, NATIVE, &["server"], &native).await?;
    Ok(())
}

/// Deletes both servers. Returns the times until they are gone.
async fn terminate(fixture: &Fixture) -> Result<[Duration; 2]> {
    let start = Instant::now();
    let terminate = async |name: &str| {
        let pods = fixture.pods(APP_NAMESPACE);
        pods.delete(name, &DeleteParams::default()).await?;
        wait_for(&format!("the end of {name}"), TIMEOUT, async || {
            let pod = pods.get_opt(name).await?;
            Ok(done_if(pod.is_none(), start.elapsed(), || {
                format!("{:?}", pod.map(|pod| pod.status))
            }))
        })
        .await
    };
    let (classic, native) = tokio::try_join!(terminate(CLASSIC), terminate(NATIVE))?;
    Ok([classic, native])
}
