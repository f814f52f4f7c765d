//! The cluster: the cluster tool starts it; kubectl and an API client use it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::process::Command;

use super::kubectl::Kubectl;
use crate::config::Config;

/// Running cluster with the images.
pub(crate) struct Cluster {
    /// kubectl of the cluster.
    pub(crate) kubectl: Kubectl,
    /// API client with administrator rights.
    pub(crate) client: kube::Client,
    /// Addresses of the cluster.
    pub(crate) settings: Settings,
    /// References of the images by name.
    pub(crate) images: BTreeMap<String, String>,
    /// Process 1 of the node.
    pub(crate) node_pid: u32,
    name: String,
    config: Config,
}

/// The fields of the cluster tool's `cluster.json` that tests use.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Settings {
    /// Address of the host, as seen from the node.
    pub(crate) host: String,
    /// Network of the Pods.
    pub(crate) pods: String,
}

#[derive(Deserialize)]
struct Init {
    pid: u32,
}

impl Cluster {
    /// Brings the cluster up unless it is running, and loads missing images.
    ///
    /// # Errors
    /// The cluster tool fails; it prints the reason.
    pub(crate) async fn up(name: &str, config: &Config) -> Result<Self> {
        tool(config, &["up", name]).await?;
        tool(config, &["load-images", name]).await?;
        let folder = config.cache.join("clusters").join(name);
        let kubeconfig = folder.join("kubeconfig");
        let init: Init = read_json(folder.join("init.json"))?;
        Ok(Self {
            client: client(&kubeconfig).await?,
            kubectl: Kubectl::new(folder.join("bin/kubectl"), kubeconfig),
            settings: read_json(folder.join("cluster.json"))?,
            images: read_json(config.target.join("images/images.json"))?,
            node_pid: init.pid,
            name: name.to_owned(),
            config: config.clone(),
        })
    }

    /// Takes the cluster down.
    ///
    /// # Errors
    /// The cluster tool fails; it prints the reason.
    pub(crate) async fn down(name: &str, config: &Config) -> Result<()> {
        tool(config, &["down", name]).await
    }

    /// Kills a component of Kubernetes and keeps it down until [`Cluster::start_component`].
    pub(crate) async fn stop_component(&self, component: &str) -> Result<()> {
        tool(&self.config, &["stop", "--name", &self.name, component]).await
    }

    /// Restarts a stopped component and returns once it is ready.
    pub(crate) async fn start_component(&self, component: &str) -> Result<()> {
        tool(&self.config, &["start", "--name", &self.name, component]).await
    }

    /// Returns the reference of an image.
    pub(crate) fn image(&self, name: &str) -> Result<&str> {
        let reference = self.images.get(name);
        Ok(reference.with_context(|| format!("image {name} does not exist: run make images"))?)
    }

    /// Returns a command that runs a program of the host in the node's network namespace, without an intermediate process,
    /// so the child process is the program itself.
    pub(crate) fn in_node_network(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--target={}", self.node_pid))
            .args(["--net", "--", program]);
        command.kill_on_drop(true);
        command
    }
}

async fn tool(config: &Config, arguments: &[&str]) -> Result<()> {
    let status = Command::new("python3")
        .args(["-m", "kermode_cluster"])
        .args(arguments)
        .env("PYTHONPATH", config.repository.join("cluster"))
        .status()
        .await
        .context("python3 cannot be started")?;
    ensure!(
        status.success(),
        "kermode_cluster {}: {status}",
        arguments.join(" ")
    );
    Ok(())
}

async fn client(kubeconfig: &PathBuf) -> Result<kube::Client> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(kube::Client::try_from(config)?)
}

fn read_json<T: DeserializeOwned>(path: PathBuf) -> Result<T> {
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("cannot decode {}", path.display()))
}
