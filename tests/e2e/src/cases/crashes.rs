//! Crashes of a sidecar: its agent is killed, or its container exceeds its memory limit. The sidecar is restarted and
//! serves, and the application runs on.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::ResourceExt;

use super::high_availability::delete_pod;
use crate::fixture::{APP_NAMESPACE, Fixture, SERVER_URL};
use crate::harness::demo;
use crate::harness::fault::{kill_program, process_of};
use crate::harness::memory::exhaust_memory_of;
use crate::harness::runner::Note;
use crate::harness::wait::{done_if, wait_for};
use crate::pods::{SIDECAR, create_until_ready, demo_pod};

/// Time limit of each wait. The kubelet restarts a container within seconds after its first end.
const TIMEOUT: Duration = Duration::from_mins(1);
/// Pod whose sidecar is killed.
const KILLED: &str = "killed-sidecar";
/// Pod whose sidecar exceeds its memory limit.
const EXHAUSTED: &str = "exhausted-sidecar";
/// ContainerPatch with a low memory limit of the sidecar, which the test reaches sooner than the default.
const LOW_LIMIT_PATCH: &str = "
apiVersion: kuma.io/v1alpha1
kind: ContainerPatch
metadata: {name: exhausted-sidecar, namespace: kong-mesh-system}
spec:
  sidecarPatch:
  - {op: replace, path: /resources, value: '{\"limits\": {\"memory\": \"64Mi\"}}'}
";

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

pub(super) async fn sidecar_that_exceeds_its_memory_limit_is_restarted_and_serves(
    fixture: &Fixture,
) -> Result<Note> {
    fixture.ensure_application().await?;
    fixture.cluster.kubectl.apply(LOW_LIMIT_PATCH).await?;
    let mut pod = demo_pod(fixture, APP_NAMESPACE, EXHAUSTED, &["server"])?;
    pod.annotations_mut()
        .insert("kuma.io/container-patches".to_owned(), EXHAUSTED.to_owned());
    let pod = create_until_ready(fixture, &pod, TIMEOUT).await?;
    let outcome = check_exhausted_sidecar(fixture, &pod).await;
    delete_pod(fixture, EXHAUSTED).await?;
    fixture.cluster.kubectl.delete(LOW_LIMIT_PATCH, true).await?;
    outcome
}

async fn check_exhausted_sidecar(fixture: &Fixture, pod: &Pod) -> Result<Note> {
    let kubectl = &fixture.cluster.kubectl;
    demo::get(kubectl, APP_NAMESPACE, EXHAUSTED, "client", SERVER_URL)
        .await
        .context("the Pod calls no service before its sidecar exceeds the limit")?;
    let envoy = process_of(pod, "envoy")?;
    let start = Instant::now();
    let limit = exhaust_memory_of(envoy).await?;
    let took = wait_for("the Pod to call a service again", TIMEOUT, async || {
        let called = demo::get(kubectl, APP_NAMESPACE, EXHAUSTED, "client", SERVER_URL).await;
        let is_restarted = process_of(pod, "envoy").is_ok_and(|current| current != envoy);
        Ok(done_if(called.is_ok() && is_restarted, start.elapsed(), || {
            format!("Envoy is restarted: {is_restarted}; {called:?}")
        }))
    })
    .await?;
    let current = fixture.pods(APP_NAMESPACE).get(EXHAUSTED).await?;
    // With cgroup v2, the kernel kills all processes of the container.
    let killed = if restarts(&current) == restarts(pod) {
        "Envoy"
    } else {
        let end = last_end(&current).with_context(|| format!("{:?}", current.status))?;
        ensure!(
            end == "OOMKilled",
            "the container of the sidecar ended with the reason {end}"
        );
        "the container"
    };
    let application = restarts(&current).into_iter().find(|(name, _)| name != SIDECAR);
    ensure!(
        application == Some(("client".to_owned(), 0)),
        "the application was restarted: {application:?}"
    );
    let limit = limit >> 20;
    Ok(format!(
        "the kernel killed {killed} at {limit} MiB; served again after {took:.1?}"
    ))
}

/// Returns the reason of the last end of the sidecar's container.
fn last_end(pod: &Pod) -> Option<String> {
    let sidecar = statuses(pod).find(|status| status.name == SIDECAR)?;
    let states = [sidecar.state.as_ref(), sidecar.last_state.as_ref()];
    let end = states
        .into_iter()
        .flatten()
        .find_map(|state| state.terminated.as_ref())?;
    end.reason.clone()
}

/// Returns the numbers of restarts of the containers and native sidecars of a Pod, by name.
pub(super) fn restarts(pod: &Pod) -> Vec<(String, i32)> {
    let mut restarts: Vec<_> = statuses(pod)
        .filter(|status| status.name != "kuma-init")
        .map(|status| (status.name.clone(), status.restart_count))
        .collect();
    restarts.sort();
    restarts
}

/// Iterates over the statuses of the containers and init containers of a Pod.
fn statuses(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.iter();
    let init = status
        .clone()
        .flat_map(|status| status.init_container_statuses.iter().flatten());
    init.chain(status.flat_map(|status| status.container_statuses.iter().flatten()))
}
