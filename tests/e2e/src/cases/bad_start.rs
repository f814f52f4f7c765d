//! kuma-cp on the host with a missing prerequisite: it exits with an error that names the object and the remedy.

use std::net::TcpListener;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use crate::harness::host::{control_plane, free_port, last_line_of_failure};
use crate::harness::runner::Note;
use crate::world::{SYSTEM, World};

const LOOPBACK: &str = "127.0.0.1";
const SERVICE_ACCOUNT: &str = "e2e-without-permissions";

pub(super) async fn unreadable_configuration_file_is_named(world: &World) -> Result<Note> {
    let mut command = start(world, world.cluster.kubectl.kubeconfig(), &[])?;
    command.arg("--config-file=/does/not/exist.yaml");
    expect(command, &["/does/not/exist.yaml", "No such file"]).await
}

pub(super) async fn unknown_setting_is_named(world: &World) -> Result<Note> {
    let folder = TempDir::new()?;
    let file = folder.path().join("config.yaml");
    std::fs::write(&file, "dpServer:\n  prot: 5678\n  port: many\n")?;
    let mut command = start(world, world.cluster.kubectl.kubeconfig(), &[])?;
    command.arg("--config-file").arg(&file);
    expect(command, &["dpServer.prot", "dpServer.port"]).await
}

pub(super) async fn missing_custom_resource_definitions_are_named(world: &World) -> Result<Note> {
    let command = start(world, world.cluster.kubectl.kubeconfig(), &[])?;
    let needles = [
        "meshes",
        "dataplanes",
        "CustomResourceDefinition",
        "kumactl install control-plane",
    ];
    expect(command, &needles).await
}

pub(super) async fn missing_permission_is_named(world: &World) -> Result<Note> {
    world.installed().await?;
    let folder = TempDir::new()?;
    let kubeconfig = without_rights(world, folder.path()).await?;
    let command = start(world, &kubeconfig, &[])?;
    let outcome = expect(
        command,
        &[
            "pods",
            "permission",
            SERVICE_ACCOUNT,
            "kumactl install control-plane",
        ],
    )
    .await;
    world
        .cluster
        .kubectl
        .run(&["delete", "serviceaccount", SERVICE_ACCOUNT, "--namespace=default"])
        .await?;
    outcome
}

pub(super) async fn occupied_port_is_named(world: &World) -> Result<Note> {
    world.installed().await?;
    let taken = TcpListener::bind((LOOPBACK, 0))?;
    let port = taken.local_addr()?.port().to_string();
    let overrides = [("KUMA_RUNTIME_KUBERNETES_ADMISSION_SERVER_PORT", port.as_str())];
    let command = start(world, world.cluster.kubectl.kubeconfig(), &overrides)?;
    expect(
        command,
        &[
            &format!("{LOOPBACK}:{port}"),
            "runtime.kubernetes.admissionServer.port",
        ],
    )
    .await
}

/// Returns a command for a control plane on free ports.
fn start(world: &World, kubeconfig: &Path, overrides: &[(&str, &str)]) -> Result<Command> {
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
        ("KUMA_STORE_KUBERNETES_SYSTEM_NAMESPACE", SYSTEM),
        ("KUMA_RUNTIME_KUBERNETES_ADMISSION_SERVER_ADDRESS", LOOPBACK),
        ("KUMA_RUNTIME_KUBERNETES_ADMISSION_SERVER_PORT", &ports[0]),
        ("KUMA_DP_SERVER_ADDRESS", LOOPBACK),
        ("KUMA_DP_SERVER_PORT", &ports[1]),
        ("KUMA_DIAGNOSTICS_ADDRESS", LOOPBACK),
        ("KUMA_DIAGNOSTICS_SERVER_PORT", &ports[2]),
        ("KUMA_DIAGNOSTICS_DEBUG_PORT", "0"),
    ];
    environment.extend(overrides);
    Ok(control_plane(&world.config.program("kuma-cp"), &environment))
}

/// Checks that the last line of output contains all needles.
async fn expect(command: Command, needles: &[&str]) -> Result<Note> {
    let line = last_line_of_failure(command).await?;
    for needle in needles {
        ensure!(line.contains(needle), "{needle:?} is missing from: {line}");
    }
    Ok(String::new())
}

/// Writes a kubeconfig for a ServiceAccount without rights.
async fn without_rights(world: &World, folder: &Path) -> Result<PathBuf> {
    let kubectl = &world.cluster.kubectl;
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
