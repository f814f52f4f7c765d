//! The CNI plugin in place of the init container: Pods that start before and after the installer of the plugin, and while a
//! program of the node's network configuration is missing.

mod missing_program;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Container, ContainerState, Pod};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::jiff::Timestamp;
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use super::init_containers::{self, Redirection};
use crate::fixture::{APP_NAMESPACE, CONTROL_PLANE, Fixture, SYSTEM_NAMESPACE};
use crate::harness::runner::Note;
use crate::harness::wait::{done_if, wait_for};

/// Time limit of each condition.
const TIMEOUT: Duration = Duration::from_mins(1);

/// Init container that checks the redirection.
const VALIDATION: &str = "kuma-validation";

pub(super) async fn pods_without_privileges_are_redirected_before_and_after_the_installer_starts(
    fixture: &Fixture,
) -> Result<Note> {
    fixture.uninstall_and_delete_test_objects().await?;
    // After a failure, the objects stay until the next test, so that the diagnosis shows them.
    check(fixture).await?;
    fixture.uninstall_and_delete_test_objects().await?;
    Ok(String::new())
}

async fn check(fixture: &Fixture) -> Result<()> {
    let installer = install_control_plane(fixture, &[]).await?;
    fixture.apply_strict_mesh().await?;
    fixture.apply_application().await?;
    let early = wait_for_validation(fixture, "server", TIMEOUT).await?;
    fixture.cluster.kubectl.apply(&installer).await?;
    // Returns once the client gets responses.
    fixture.deploy_application().await?;
    let servers = fixture.ready_pods(APP_NAMESPACE, "server").await?;
    for server in &servers {
        ensure!(
            server
                .metadata
                .uid
                .as_ref()
                .is_some_and(|uid| early.contains(uid)),
            "Pod {} was replaced instead of redirected",
            server.name_any()
        );
    }
    let redirected = redirected_pods(fixture).await?;
    ensure!(
        early.iter().all(|uid| redirected.contains_key(uid)),
        "Events about redirected Pods: {redirected:?}; Pods that started before the installer: {early:?}"
    );
    // The plugin redirects the new Pods, so the installer finds nothing to repair.
    fixture.restart_deployment(APP_NAMESPACE, "server").await?;
    for server in fixture.ready_pods(APP_NAMESPACE, "server").await? {
        check_privileges(&server)?;
    }
    ensure!(
        redirected_pods(fixture).await? == redirected,
        "the installer had to redirect a Pod that started after it"
    );
    check_identity(fixture).await?;
    init_containers::check(fixture, Redirection::CniPlugin).await?;
    missing_program::check(fixture).await
}

/// Installs the control plane for the CNI plugin and with these flags, but not the plugin. Returns the manifest of the
/// plugin's installer.
pub(super) async fn install_control_plane(fixture: &Fixture, flags: &[&str]) -> Result<String> {
    let manifests = fixture.manifests(&[&["--cni-enabled"], flags].concat()).await?;
    let is_installer = |document: &&str| document.contains("kind: DaemonSet");
    let (installer, others): (Vec<&str>, Vec<&str>) = manifests.split("\n---\n").partition(is_installer);
    ensure!(
        installer.len() == 1,
        "the manifests have {} DaemonSets",
        installer.len()
    );
    fixture.cluster.kubectl.apply(&others.join("\n---\n")).await?;
    fixture.wait_for_rollout(SYSTEM_NAMESPACE, CONTROL_PLANE).await?;
    fixture.wait_for_admission().await?;
    fixture.wait_for_default_mesh().await?;
    Ok(installer.concat())
}

/// Waits until all Pods of a Deployment wait for their redirection. Returns their UIDs.
pub(super) async fn wait_for_validation(
    fixture: &Fixture,
    app: &str,
    within: Duration,
) -> Result<BTreeSet<String>> {
    let desired = fixture.deployments(APP_NAMESPACE).get(app).await?.spec;
    let desired = desired.and_then(|spec| spec.replicas).unwrap_or(1);
    let selector = ListParams::default().labels(&format!("app={app}"));
    wait_for("the Pods to wait for their redirection", within, async || {
        let pods = fixture.pods(APP_NAMESPACE).list(&selector).await?.items;
        let waiting: BTreeSet<String> = pods
            .iter()
            .filter(|pod| is_validating(pod))
            .filter_map(|pod| pod.metadata.uid.clone())
            .collect();
        let is_done = i32::try_from(waiting.len())? == desired;
        Ok(done_if(is_done, waiting, || format!("{} Pods exist", pods.len())))
    })
    .await
}

fn is_validating(pod: &Pod) -> bool {
    validation_state(pod).is_some_and(|state| state.running.is_some())
}

/// Returns the state of the init container that checks the redirection.
pub(super) fn validation_state(pod: &Pod) -> Option<&ContainerState> {
    let mut statuses = pod.status.as_ref()?.init_container_statuses.iter().flatten();
    statuses.find(|status| status.name == VALIDATION)?.state.as_ref()
}

/// Returns the UIDs of the Pods about which an Event says that the installer has redirected them, with the time of the last
/// redirection.
pub(super) async fn redirected_pods(fixture: &Fixture) -> Result<BTreeMap<String, Timestamp>> {
    let events = Api::<Event>::namespaced(fixture.cluster.client.clone(), APP_NAMESPACE);
    let events = events.list(&ListParams::default()).await?.items;
    let redirected = events
        .into_iter()
        .filter(|event| event.reason.as_deref() == Some("TrafficRedirected"));
    let last_time = |event: &Event| {
        let repeated = event.series.as_ref().map(|series| series.last_observed_time.0);
        repeated.or_else(|| Some(event.event_time.as_ref()?.0))
    };
    Ok(redirected
        .filter_map(|event| Some((event.regarding.as_ref()?.uid.clone()?, last_time(&event)?)))
        .collect())
}

/// Checks that no container of a Pod adds capabilities, runs as root by its own setting, or is privileged.
fn check_privileges(pod: &Pod) -> Result<()> {
    let spec = pod.spec.as_ref().context("a Pod without spec")?;
    let init_containers = spec.init_containers.iter().flatten();
    let containers: Vec<&Container> = init_containers.chain(&spec.containers).collect();
    ensure!(
        containers.iter().any(|container| container.name == VALIDATION),
        "Pod {} has no {VALIDATION}",
        pod.name_any()
    );
    for container in containers {
        let Some(context) = &container.security_context else {
            continue;
        };
        let added = context
            .capabilities
            .iter()
            .flat_map(|all| all.add.iter().flatten());
        ensure!(
            added.count() == 0 && context.privileged != Some(true) && context.run_as_user != Some(0),
            "container {} of Pod {} has privileges: {context:?}",
            container.name,
            pod.name_any()
        );
    }
    Ok(())
}

/// Checks that the server saw the identity of the client.
async fn check_identity(fixture: &Fixture) -> Result<()> {
    let response = fixture.client_counters().await?.last_response;
    let response = response.context("the client got no response")?;
    let header = response["headers"]["x-forwarded-client-cert"].as_str();
    ensure!(
        header.is_some_and(|header| header.contains("spiffe://default/client_e2e-mesh_svc")),
        "x-forwarded-client-cert does not contain the identity of the client: {header:?}"
    );
    Ok(())
}
