//! A plugin of the node's network configuration whose program is missing: the installer reports it, and no Pod starts until
//! the program is back.

use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::events::v1::Event;
use kube::api::{DeleteParams, ListParams, LogParams};
use kube::{Api, ResourceExt};

use crate::fixture::{APP_NAMESPACE, Fixture};
use crate::harness::wait::{done_if, wait_for};

/// Time limit of each condition. The container runtime tries to start a Pod again after up to a minute.
const TIMEOUT: Duration = Duration::from_mins(3);
/// Namespace and name of the installer's DaemonSet.
const INSTALLER: (&str, &str) = ("kube-system", "kuma-cni");
/// A program of the cluster's network configuration.
const PROGRAM: &str = "/opt/cni/bin/portmap";
/// Name of the program while it is missing.
const HIDDEN: &str = "/opt/cni/bin/.portmap";

/// Takes the program away, checks the state of the installer and of a new Pod, and brings the program back.
pub(super) async fn check(fixture: &Fixture) -> Result<()> {
    rename(fixture, PROGRAM, HIDDEN).await?;
    let checked = check_without_program(fixture).await;
    rename(fixture, HIDDEN, PROGRAM).await?;
    let pod = checked?;
    wait_for_installer(fixture, "ready", |ready, desired| ready == desired).await?;
    wait_for("the Pod to start", TIMEOUT, async || {
        let pods = fixture.ready_pods(APP_NAMESPACE, "server").await?;
        let is_ready = pods.iter().any(|ready| ready.name_any() == pod);
        Ok(done_if(is_ready, (), || format!("{pod} is not ready")))
    })
    .await
}

/// Replaces a Pod, and returns the name of the new one, which cannot start.
async fn check_without_program(fixture: &Fixture) -> Result<String> {
    let pods = fixture.pods(APP_NAMESPACE);
    let deleted = fixture.ready_pod_name(APP_NAMESPACE, "server").await?;
    pods.delete(&deleted, &DeleteParams::default()).await?;
    wait_for_installer(fixture, "not ready", |ready, _| ready == 0).await?;
    let report = wait_for_event(fixture, INSTALLER.0, "ChainedPluginMissing", |_| true).await?;
    let note = report.note.unwrap_or_default();
    ensure!(note.contains("has no program portmap"), "the Event says: {note}");
    check_log(fixture).await?;
    let is_of_server = |name: &str| name.starts_with("server-");
    let failure = wait_for_event(fixture, APP_NAMESPACE, "FailedCreatePodSandBox", is_of_server).await?;
    let name = failure.regarding.and_then(|pod| pod.name).unwrap_or_default();
    let pod = pods.get(&name).await?;
    ensure!(
        !has_started(&pod),
        "a container of Pod {name} has started although the network is incomplete"
    );
    Ok(name)
}

/// Whether a container of a Pod runs or has run.
fn has_started(pod: &Pod) -> bool {
    let status = pod.status.as_ref();
    let init = status.and_then(|status| status.init_container_statuses.as_deref());
    let main = status.and_then(|status| status.container_statuses.as_deref());
    let containers = [init, main].into_iter().flatten().flatten();
    let mut container_states = containers.filter_map(|container| container.state.as_ref());
    container_states.any(|state| state.running.is_some() || state.terminated.is_some())
}

async fn check_log(fixture: &Fixture) -> Result<()> {
    let pods = fixture.pods(INSTALLER.0);
    let selector = ListParams::default().labels("app=kuma-cni");
    for pod in pods.list(&selector).await? {
        let log = pods.logs(&pod.name_any(), &LogParams::default()).await?;
        ensure!(
            log.contains("has no program portmap"),
            "the log of the installer does not name the missing program:\n{log}"
        );
    }
    Ok(())
}

/// Waits for the number of ready Pods of the installer, beside the desired number.
async fn wait_for_installer(
    fixture: &Fixture,
    state: &str,
    is_done: impl Fn(i32, i32) -> bool,
) -> Result<()> {
    let installers = Api::<DaemonSet>::namespaced(fixture.cluster.client.clone(), INSTALLER.0);
    wait_for(&format!("the installer to be {state}"), TIMEOUT, async || {
        let status = installers.get(INSTALLER.1).await?.status.unwrap_or_default();
        let (ready, desired) = (status.number_ready, status.desired_number_scheduled);
        Ok(done_if(is_done(ready, desired), (), || {
            format!("{ready} of {desired} Pods are ready")
        }))
    })
    .await
}

/// Waits for an Event with this reason about an object whose name `concerns` accepts.
async fn wait_for_event(
    fixture: &Fixture,
    namespace: &str,
    reason: &str,
    concerns: impl Fn(&str) -> bool,
) -> Result<Event> {
    let events = Api::<Event>::namespaced(fixture.cluster.client.clone(), namespace);
    wait_for(&format!("an Event {reason}"), TIMEOUT, async || {
        let events = events.list(&ListParams::default()).await?.items;
        let count = events.len();
        let found = events.into_iter().find(|event| {
            let name = event.regarding.as_ref().and_then(|object| object.name.as_deref());
            event.reason.as_deref() == Some(reason) && concerns(name.unwrap_or_default())
        });
        Ok(done_if(found.is_some(), found, || {
            format!("none of {count} Events")
        }))
    })
    .await?
    .ok_or_else(|| anyhow::anyhow!("no Event {reason}"))
}

async fn rename(fixture: &Fixture, from: &str, to: &str) -> Result<()> {
    let mut command = fixture.cluster.with_node_files("mv");
    let status = command.args([from, to]).status().await?;
    ensure!(status.success(), "{from} cannot be renamed: {status}");
    Ok(())
}
