//! `kumactl check` and `kumactl diff` against a cluster: before the installation, of a mesh without a fault, and of one with
//! faults until they are mended.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::process::Command;

use crate::fixture::{APP_NAMESPACE, CONTROL_PLANE, Fixture, SYSTEM_NAMESPACE};
use crate::harness::runner::Note;
use crate::harness::wait::{done_if, wait_for};
use crate::pods::{create_until_ready, demo_pod};

/// Time limit of each condition.
const TIMEOUT: Duration = Duration::from_mins(1);
/// Namespace of the Pod that gets no sidecar.
const NAMESPACE: &str = "e2e-check";
/// Exit code if a finding is an error, or if a sidecar differs.
const ERRORS: i32 = 3;

/// A ContainerPatch that no sidecar accepts.
const FAILING_PATCH: &str = "
apiVersion: kuma.io/v1alpha1
kind: ContainerPatch
metadata: {name: e2e-check, namespace: kong-mesh-system}
spec: {sidecarPatch: [{op: remove, path: /livenessProbe/none}]}
";

/// Output of a command.
struct Output {
    code: Option<i32>,
    report: Value,
    stderr: String,
}

pub(super) async fn cluster_before_an_installation_passes_all_checks(fixture: &Fixture) -> Result<Note> {
    let output = check(fixture, &["--pre"]).await?;
    check_is_clean(&output)?;
    Ok(String::new())
}

pub(super) async fn mesh_without_a_fault_passes_all_checks(fixture: &Fixture) -> Result<Note> {
    fixture.ensure_application().await?;
    // The control plane writes the status of a Dataplane some time after its Pod is ready.
    wait_for("no finding", TIMEOUT, async || {
        let output = check(fixture, &["--namespace", APP_NAMESPACE]).await?;
        let outcome = check_is_clean(&output);
        let state = outcome.as_ref().err().map(ToString::to_string);
        Ok(done_if(outcome.is_ok(), (), || state.unwrap_or_default()))
    })
    .await?;
    Ok(String::new())
}

pub(super) async fn sidecars_of_the_application_do_not_differ_from_new_ones(
    fixture: &Fixture,
) -> Result<Note> {
    fixture.ensure_application().await?;
    let output = kumactl(fixture, "diff", &[APP_NAMESPACE]).await?;
    let compared = output.report["compared"].as_u64().unwrap_or_default();
    ensure!(
        output.code == Some(0) && compared > 0,
        "the exit code is {:?}: {:#} {}",
        output.code,
        output.report,
        output.stderr
    );
    Ok(format!("{compared} Pods compared"))
}

pub(super) async fn faults_are_found_until_they_are_mended(fixture: &Fixture) -> Result<Note> {
    fixture.ensure_application().await?;
    let kubectl = &fixture.cluster.kubectl;
    kubectl.run(&["create", "namespace", NAMESPACE]).await?;
    let warnings = check_warnings(fixture).await;
    kubectl.delete(FAILING_PATCH, true).await?;
    kubectl.run(&["delete", "namespace", NAMESPACE]).await?;
    warnings?;
    scale_control_plane(fixture, "0").await?;
    let errors = wait_for_ids(
        fixture,
        &["ControlPlaneNotReady", "LeaderMissing", "WebhookUnreachable"],
    )
    .await;
    scale_control_plane(fixture, "1").await?;
    errors?;
    // The sidecars reconnect, and the new replica reports them.
    let output = check(fixture, &["--wait=2m"]).await?;
    ensure!(
        output.code == Some(0),
        "after the wait, the exit code is {:?}: {:#} {}",
        output.code,
        output.report,
        output.stderr
    );
    Ok(String::new())
}

/// Checks findings that are warnings, so that the exit code is 0.
async fn check_warnings(fixture: &Fixture) -> Result<()> {
    let kubectl = &fixture.cluster.kubectl;
    let pod = demo_pod(fixture, NAMESPACE, "early", &["server"])?;
    create_until_ready(fixture, &pod, TIMEOUT).await?;
    let label = "kuma.io/sidecar-injection=enabled";
    kubectl.run(&["label", "namespace", NAMESPACE, label]).await?;
    kubectl.apply(FAILING_PATCH).await?;
    let output = check(fixture, &[]).await?;
    let found = ids(&output);
    ensure!(
        found == ["ContainerPatchFails", "PodsNotInjected"] && output.code == Some(0),
        "the exit code is {:?}, and the findings are {:#}",
        output.code,
        output.report["findings"]
    );
    let problem = output.report["findings"][1]["problem"]
        .as_str()
        .unwrap_or_default();
    ensure!(problem.contains("today: early;"), "the problem is {problem}");
    let output = kumactl(fixture, "diff", &[NAMESPACE]).await?;
    let difference = &output.report["workloads"]["Pod e2e-check/early"][0];
    ensure!(
        output.code == Some(ERRORS) && difference["change"] == "added",
        "the exit code is {:?}: {:#}",
        output.code,
        output.report
    );
    Ok(())
}

async fn scale_control_plane(fixture: &Fixture, replicas: &str) -> Result<()> {
    let replicas = format!("--replicas={replicas}");
    let namespace = format!("--namespace={SYSTEM_NAMESPACE}");
    let arguments = ["scale", "deployment", CONTROL_PLANE, &replicas, &namespace];
    fixture.cluster.kubectl.run(&arguments).await?;
    Ok(())
}

/// Waits until the findings include these errors.
async fn wait_for_ids(fixture: &Fixture, expected: &[&str]) -> Result<()> {
    wait_for("the errors", TIMEOUT, async || {
        let output = check(fixture, &[]).await?;
        let found = ids(&output);
        let is_complete = output.code == Some(ERRORS) && expected.iter().all(|id| found.contains(id));
        Ok(done_if(is_complete, (), || {
            format!("{:?} {found:?}", output.code)
        }))
    })
    .await
}

/// Checks that all checks were made, and that nothing was found.
fn check_is_clean(output: &Output) -> Result<()> {
    let checks = output.report["checks"].as_array();
    let checks = checks.with_context(|| format!("there is no report: {}", output.stderr))?;
    let is_clean = output.code == Some(0)
        && ids(output).is_empty()
        && checks.iter().all(|check| check["outcome"] == "passed");
    ensure!(
        is_clean,
        "the exit code is {:?}: {:#}",
        output.code,
        output.report
    );
    Ok(())
}

async fn check(fixture: &Fixture, arguments: &[&str]) -> Result<Output> {
    kumactl(fixture, "check", arguments).await
}

/// Runs a command of kumactl that prints a report as JSON.
async fn kumactl(fixture: &Fixture, command: &str, arguments: &[&str]) -> Result<Output> {
    let program = fixture.config.checkout.release_binary("kumactl");
    let output = Command::new(&program)
        .arg(command)
        .args(arguments)
        .args(["--output=json", "--kubeconfig"])
        .arg(fixture.cluster.kubectl.kubeconfig())
        .output()
        .await
        .with_context(|| format!("{} cannot be started", program.display()))?;
    Ok(Output {
        code: output.status.code(),
        report: serde_json::from_slice(&output.stdout).unwrap_or_default(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

fn ids(output: &Output) -> Vec<&str> {
    let findings = output.report["findings"].as_array();
    let findings = findings.into_iter().flatten();
    findings.filter_map(|finding| finding["id"].as_str()).collect()
}
