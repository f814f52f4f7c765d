//! A sidecar that is killed, as the kernel does when its container is out of memory: its container is restarted and
//! serves, and the application runs on.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;

use super::high_availability::delete_pod;
use crate::fixture::{APP_NAMESPACE, Fixture, SERVER_URL};
use crate::harness::demo;
use crate::harness::fault::{kill_program, process_of};
use crate::harness::runner::Note;
use crate::harness::wait::{done_if, wait_for};
use crate::pods::{SIDECAR, create_until_ready, demo_pod};

/// Time limit of each wait. The kubelet restarts a container within seconds after its first end.
const TIMEOUT: Duration = Duration::from_mins(1);
/// Pod whose sidecar is killed.
const KILLED: &str = "killed-sidecar";

pub(super) async fn killed_sidecar_is_restarted_and_serves_while_its_application_runs_on(
    fixture: &Fixture,
) -> Result<Note> {
    fixture.ensure_application().await?;
    let pod = demo_pod(fixture, APP_NAMESPACE, KILLED, &["server"])?;
    let pod = create_until_ready(fixture, &pod, TIMEOUT).await?;
    let outcome = check_killed_sidecar(fixture, &pod).await;
    delete_pod(fixture, KILLED).await?;
    outcome
}

async fn check_killed_sidecar(fixture: &Fixture, pod: &Pod) -> Result<Note> {
    let kubectl = &fixture.cluster.kubectl;
    demo::get(kubectl, APP_NAMESPACE, KILLED, "client", SERVER_URL)
        .await
        .context("the Pod calls no service before the crash")?;
    let envoy = process_of(pod, "envoy")?;
    let start = Instant::now();
    kill_program(pod, "kuma-dp")?;
    let took = wait_for("the Pod to call a service again", TIMEOUT, async || {
        let called = demo::get(kubectl, APP_NAMESPACE, KILLED, "client", SERVER_URL).await;
        let restarts = restarts(&fixture.pods(APP_NAMESPACE).get(KILLED).await?);
        Ok(done_if(
            called.is_ok() && restarts == [("client".to_owned(), 0), (SIDECAR.to_owned(), 1)],
            start.elapsed(),
            || format!("{restarts:?}, {called:?}"),
        ))
    })
    .await?;
    let current = process_of(pod, "envoy")?;
    ensure!(current != envoy, "Envoy has outlived kuma-dp");
    Ok(format!("served again after {took:.1?}"))
}

/// Returns the numbers of restarts of the containers and native sidecars of a Pod, by name.
fn restarts(pod: &Pod) -> Vec<(String, i32)> {
    let status = pod.status.iter();
    let init = status
        .clone()
        .flat_map(|status| status.init_container_statuses.iter().flatten());
    let ordinary = status.flat_map(|status| status.container_statuses.iter().flatten());
    let all = init.chain(ordinary).filter(|status| status.name != "kuma-init");
    let mut restarts: Vec<_> = all
        .map(|status| (status.name.clone(), status.restart_count))
        .collect();
    restarts.sort();
    restarts
}
