//! The API server of a benchmark, started and stopped by the cluster tool (`cluster/`).

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde::Deserialize;

use crate::config::Config;
use crate::process::{Process, bound_command};

/// etcd and an API server. Dropping the value stops both.
#[derive(Debug)]
pub struct ApiServer {
    name: String,
    config: Config,
    /// Folder of the cluster in the cluster tool's cache.
    folder: PathBuf,
    /// Addresses of the cluster.
    pub addresses: Addresses,
}

/// The fields of the cluster tool's `cluster.json` that benchmarks use.
#[derive(Clone, Debug, Deserialize)]
pub struct Addresses {
    /// IP address at which the API server reaches processes of this machine, such as a webhook.
    pub host: String,
}

/// The field of the cluster tool's `init.json` that benchmarks use. The file describes the first process of the node.
#[derive(Deserialize)]
struct NodeInit {
    pid: u32,
}

impl ApiServer {
    /// Starts etcd and an API server.
    ///
    /// # Errors
    /// When the cluster tool fails.
    pub fn up(name: &str, config: &Config) -> Result<Self> {
        run_cluster_tool(config, &["api-only", "--name", name, "up"])?;
        let folder = config.checkout.cluster_folder(name);
        let path = folder.join("cluster.json");
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self {
            name: name.to_owned(),
            config: config.clone(),
            folder,
            addresses: serde_json::from_str(&text)?,
        })
    }

    /// Path of the administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.join("kubeconfig")
    }

    /// Returns a client of the API server with the administrator's rights.
    ///
    /// # Errors
    /// When the kubeconfig cannot be used.
    pub async fn client(&self) -> Result<Client> {
        let kubeconfig = Kubeconfig::read_from(self.kubeconfig())?;
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        Ok(Client::try_from(config)?)
    }

    /// Returns a command that runs a program of this machine in the network namespace of the API server.
    ///
    /// # Errors
    /// When the state of the cluster cannot be read.
    pub fn in_network(&self, program: &Path) -> Result<Command> {
        let path = self.folder.join("init.json");
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let init: NodeInit = serde_json::from_str(&text)?;
        let mut command = bound_command("nsenter");
        command
            .arg(format!("--target={}", init.pid))
            .args(["--net", "--"])
            .arg(program);
        Ok(command)
    }

    /// Returns the processes of the API server and etcd, whose arguments contain the cluster's folder.
    ///
    /// # Errors
    /// When not both processes are found.
    pub fn processes(&self) -> Result<Vec<Process>> {
        let folder = format!("{}/", self.folder.display());
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc")?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            // Empty if the process has ended meanwhile.
            let command_line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let command_line = String::from_utf8_lossy(&command_line);
            let program = command_line.split('\0').next().unwrap_or_default();
            let is_server = ["kube-apiserver", "etcd"]
                .iter()
                .any(|name| program.ends_with(name));
            if is_server && command_line.contains(&folder) {
                found.push(Process::new(pid)?);
            }
        }
        ensure!(
            found.len() == 2,
            "{} processes of cluster {} found instead of 2 (kube-apiserver and etcd)",
            found.len(),
            self.name
        );
        Ok(found)
    }

    /// Applies manifests.
    ///
    /// # Errors
    /// When kubectl fails; the error contains its error output.
    pub fn apply(&self, manifests: &str) -> Result<()> {
        let path = self
            .config
            .checkout
            .target
            .join("bench")
            .join(format!("{}.yaml", self.name));
        std::fs::write(&path, manifests)?;
        self.kubectl(&["apply", "--server-side", "--filename", &path.to_string_lossy()])?;
        Ok(())
    }

    /// Runs kubectl and returns its output.
    ///
    /// # Errors
    /// When kubectl fails; the error contains its error output.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(self.folder.join("bin/kubectl"));
        command.env("KUBECONFIG", self.kubeconfig()).args(arguments);
        run(command)
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        // The cluster tool prints its own errors.
        let _ = run_cluster_tool(&self.config, &["down", &self.name]);
    }
}

/// Runs a program and returns its standard output.
///
/// # Errors
/// When the program fails; the error contains its standard error.
pub fn run(mut command: Command) -> Result<String> {
    let program = Path::new(command.get_program()).display().to_string();
    let output = command
        .output()
        .with_context(|| format!("{program} cannot be started"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{program} ended with {}: {errors}",
        output.status
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// Runs the cluster tool without showing its standard output.
fn run_cluster_tool(config: &Config, arguments: &[&str]) -> Result<()> {
    let status = config
        .checkout
        .cluster_tool(arguments)
        .stdout(Stdio::null())
        .status()
        .context("python3 cannot be started")?;
    ensure!(
        status.success(),
        "kermode_cluster {} ended with {status}",
        arguments.join(" ")
    );
    Ok(())
}
