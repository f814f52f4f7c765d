//! The cluster: brought up by the cluster tool, reached by kubectl and by a client of its API.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::process::Command;

use super::kubectl::Kubectl;
use crate::config::Config;

/// A cluster that is up, with the images in it.
pub(crate) struct Cluster {
    /// kubectl, as users have it.
    pub(crate) kubectl: Kubectl,
    /// A client with an administrator's rights.
    pub(crate) client: kube::Client,
    /// Addresses.
    pub(crate) settings: Settings,
    /// References of the images by name.
    pub(crate) images: BTreeMap<String, String>,
    /// Process 1 of the node.
    pub(crate) node_pid: u32,
    name: String,
    config: Config,
}

/// The cluster tool's `cluster.json`, as far as it is used.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Settings {
    /// The host's address as the node sees it.
    pub(crate) host: String,
    /// The pods' network.
    pub(crate) pods: String,
}

#[derive(Deserialize)]
struct Init {
    pid: u32,
}

impl Cluster {
    /// Brings the cluster up unless it is, and loads the images it does not have.
    ///
    /// # Errors
    /// With the words of the cluster tool.
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
    /// With the words of the cluster tool.
    pub(crate) async fn down(name: &str, config: &Config) -> Result<()> {
        tool(config, &["down", name]).await
    }

    /// Kills a component of Kubernetes and keeps it down until [`Cluster::give_back`].
    pub(crate) async fn take_away(&self, component: &str) -> Result<()> {
        tool(&self.config, &["stop", "--name", &self.name, component]).await
    }

    /// Lets a component run again; returns when it is ready.
    pub(crate) async fn give_back(&self, component: &str) -> Result<()> {
        tool(&self.config, &["start", "--name", &self.name, component]).await
    }

    /// Reference of an image.
    pub(crate) fn image(&self, name: &str) -> Result<&str> {
        let reference = self.images.get(name);
        Ok(reference.with_context(|| format!("there is no image {name}: run make images"))?)
    }

    /// A program of the host in the node's network. No shell and no second process comes between: ending the child
    /// ends the program.
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
    serde_json::from_str(&text).with_context(|| format!("cannot understand {}", path.display()))
}
