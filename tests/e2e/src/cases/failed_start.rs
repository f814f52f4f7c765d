//! Failed starts of kuma-cp, run on this machine. If a prerequisite is missing, kuma-cp exits with an error that names
//! the object and the remedy.

use std::net::TcpListener;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use crate::fixture::{Fixture, SYSTEM_NAMESPACE};
use crate::harness::host::{control_plane_command, free_port, run_expecting_failure};
use crate::harness::runner::Note;

const LOOPBACK: &str = "127.0.0.1";
const SERVICE_ACCOUNT: &str = "e2e-without-permissions";

pub(super) async fn unreadable_configuration_file_is_named_in_the_error(fixture: &Fixture) -> Result<Note> {
    let mut command = control_plane_on_loopback(fixture, fixture.cluster.kubectl.kubeconfig(), &[])?;
    command.arg("--config-file=/does/not/exist.yaml");
    expect_error(command, &["/does/not/exist.yaml", "No such file"]).await
}

pub(super) async fn unknown_setting_is_named_in_the_error(fixture: &Fixture) -> Result<Note> {
    let folder = TempDir::new()?;
    let file = folder.path().join("config.yaml");
    // `prot` is not a setting, and `many` is not a port: both problems are reported at once.
    std::fs::write(&file, "dpServer:\n  prot: 5678\n  port: many\n")?;
    let mut command = control_plane_on_loopback(fixture, fixture.cluster.kubectl.kubeconfig(), &[])?;
    command.arg("--config-file").arg(&file);
    expect_error(command, &["dpServer.prot", "dpServer.port"]).await
}

pub(super) async fn missing_custom_resource_definitions_are_named_in_the_error(
    fixture: &Fixture,
) -> Result<Note> {
    // This test runs before the installation, so the CustomResourceDefinitions do not exist yet.
    let command = control_plane_on_loopback(fixture, fixture.cluster.kubectl.kubeconfig(), &[])?;
    let expected_texts = [
        "meshes",
        "dataplanes",
        "CustomResourceDefinition",
        "kumactl install control-plane",
    ];
    expect_error(command, &expected_texts).await
}

pub(super) async fn missing_permission_is_named_in_the_error(fixture: &Fixture) -> Result<Note> {
    fixture.ensure_control_plane().await?;
    let folder = TempDir::new()?;
    let kubeconfig = kubeconfig_without_permissions(fixture, folder.path()).await?;
    let command = control_plane_on_loopback(fixture, &kubeconfig, &[])?;
    let outcome = expect_error(
        command,
        &[
            "pods",
            "permission",
            SERVICE_ACCOUNT,
            "kumactl install control-plane",
        ],
    )
    .await;
    fixture
        .cluster
        .kubectl
        .run(&["delete", "serviceaccount", SERVICE_ACCOUNT, "--namespace=default"])
        .await?;
    outcome
}

pub(super) async fn occupied_port_is_named_in_the_error(fixture: &Fixture) -> Result<Note> {
    fixture.ensure_control_plane().await?;
    let listener = TcpListener::bind((LOOPBACK, 0))?;
    let port = listener.local_addr()?.port().to_string();
    let overrides = [("KUMA_RUNTIME_KUBERNETES_ADMISSION_SERVER_PORT", port.as_str())];
    let command = control_plane_on_loopback(fixture, fixture.cluster.kubectl.kubeconfig(), &overrides)?;
    expect_error(
        command,
        &[
            &format!("{LOOPBACK}:{port}"),
            "runtime.kubernetes.admissionServer.port",
        ],
    )
    .await
}

/// Returns a command that runs a control plane whose servers listen on free ports of loopback. `overrides` replace
/// environment variables of the command.
fn control_plane_on_loopback(
    fixture: &Fixture,
    kubeconfig: &Path,
    overrides: &[(&str, &str)],
) -> Result<Command> {
    let ports = [
        free_port(LOOPBACK)?.to_string(),
        free_port(LOOPBACK)?.to_string(),
        free_port(LOOPBACK)?.to_string(),
    ];
    let kubeconfig = kubeconfig
        .to_str()
        .context("the path of the kubeconfig is not UTF-8")?;
    let mut environment = vec![
        ("KUBECONFIG", kubeconfig),
        ("KUMA_STORE_KUBERNETES_SYSTEM_NAMESPACE", SYSTEM_NAMESPACE),
        ("KUMA_RUNTIME_KUBERNETES_ADMISSION_SERVER_ADDRESS", LOOPBACK),
        ("KUMA_RUNTIME_KUBERNETES_ADMISSION_SERVER_PORT", &ports[0]),
        ("KUMA_DP_SERVER_ADDRESS", LOOPBACK),
        ("KUMA_DP_SERVER_PORT", &ports[1]),
        ("KUMA_DIAGNOSTICS_ADDRESS", LOOPBACK),
        ("KUMA_DIAGNOSTICS_SERVER_PORT", &ports[2]),
        // Port 0 disables the debug endpoints.
        ("KUMA_DIAGNOSTICS_DEBUG_PORT", "0"),
    ];
    environment.extend(overrides);
    Ok(control_plane_command(
        &fixture.config.checkout.release_binary("kuma-cp"),
        &environment,
    ))
}

/// Runs a command that must fail, and checks that the last line of its output, the error, contains all of these texts.
async fn expect_error(command: Command, expected_texts: &[&str]) -> Result<Note> {
    let line = run_expecting_failure(command).await?;
    for text in expected_texts {
        ensure!(line.contains(text), "{text:?} is missing from the error: {line}");
    }
    Ok(String::new())
}

/// Creates a ServiceAccount without permissions, and writes a kubeconfig for it.
async fn kubeconfig_without_permissions(fixture: &Fixture, folder: &Path) -> Result<PathBuf> {
    let kubectl = &fixture.cluster.kubectl;
    kubectl
        .run(&["create", "serviceaccount", SERVICE_ACCOUNT, "--namespace=default"])
        .await?;
    let token = kubectl
        .run(&["create", "token", SERVICE_ACCOUNT, "--namespace=default"])
        .await?;
    let text = kubectl
        .run(&["config", "view", "--raw", "--flatten", "--output=json"])
        .await?;
    let mut config: Value = serde_json::from_str(&text)?;
    for user in config["users"].as_array_mut().into_iter().flatten() {
        user["user"] = json!({"token": token.trim()});
    }
    let file = folder.join("kubeconfig");
    std::fs::write(&file, config.to_string())?;
    Ok(file)
}
