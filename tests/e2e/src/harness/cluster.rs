//! The cluster that the tests run on. The cluster tool (`cluster/`) starts and stops it; tests access it through
//! kubectl and an API client.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use kermode_harness::local::{self, read_json};
use serde::Deserialize;
use tokio::process::Command;

use super::host;
use super::kubectl::Kubectl;
use crate::config::Config;

/// Running cluster, into which the images of this build are loaded.
pub(crate) struct Cluster {
    /// kubectl, configured for this cluster.
    pub(crate) kubectl: Kubectl,
    /// API client with administrator rights.
    pub(crate) client: kube::Client,
    /// Addresses of the cluster.
    pub(crate) addresses: Addresses,
    /// References of the loaded images, by short name, such as `kuma-dp`.
    pub(crate) images: BTreeMap<String, String>,
    /// PID of the node's init process, in the PID namespace of this machine.
    pub(crate) node_pid: u32,
    name: String,
    config: Config,
}

/// The fields of the cluster tool's `cluster.json` that tests use.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Addresses {
    /// IP address of this machine, as seen from the node.
    pub(crate) host: String,
    /// CIDR of the Pods.
    #[serde(rename = "pods")]
    pub(crate) pod_cidr: String,
}

/// The field of the cluster tool's `init.json` that tests use. The file describes the node's init process.
#[derive(Deserialize)]
struct NodeInit {
    pid: u32,
}

impl Cluster {
    /// Starts the cluster unless it is running, and loads missing images.
    ///
    /// # Errors
    /// The cluster tool fails; it prints the reason.
    pub(crate) async fn up(name: &str, config: &Config) -> Result<Self> {
        run_cluster_tool(config, &["up", name]).await?;
        run_cluster_tool(config, &["load-images", name]).await?;
        let folder = config.checkout.cluster_folder(name);
        let kubectl = local::kubectl(&config.checkout, name);
        let init: NodeInit = read_json(&folder.join("init.json"))?;
        Ok(Self {
            client: local::client(kubectl.kubeconfig()).await?,
            kubectl,
            addresses: read_json(&folder.join("cluster.json"))?,
            images: local::images(&config.checkout)?,
            node_pid: init.pid,
            name: name.to_owned(),
            config: config.clone(),
        })
    }

    /// Stops the cluster and deletes it.
    ///
    /// # Errors
    /// The cluster tool fails; it prints the reason.
    pub(crate) async fn down(name: &str, config: &Config) -> Result<()> {
        run_cluster_tool(config, &["down", name]).await
    }

    /// Kills a component of Kubernetes and keeps it down until [`Cluster::start_component`].
    pub(crate) async fn stop_component(&self, component: &str) -> Result<()> {
        run_cluster_tool(&self.config, &["stop", "--name", &self.name, component]).await
    }

    /// Starts a stopped component and returns once the component is ready.
    pub(crate) async fn start_component(&self, component: &str) -> Result<()> {
        run_cluster_tool(&self.config, &["start", "--name", &self.name, component]).await
    }

    /// Ends all processes of the node, removes the networks of its Pods, and starts its components again.
    pub(crate) async fn reboot(&self) -> Result<()> {
        run_cluster_tool(&self.config, &["reboot", "--name", &self.name]).await
    }

    /// Returns the reference of the image with this short name.
    pub(crate) fn image(&self, name: &str) -> Result<&str> {
        let reference = self.images.get(name);
        Ok(reference.with_context(|| format!("image {name} does not exist: run make images"))?)
    }

    /// Builds images of applications (`images/applications.json`) unless they exist, and loads missing ones. Returns the
    /// references of all built ones by name.
    ///
    /// # Errors
    /// The cluster tool fails; it prints the reason.
    pub(crate) async fn load_application_images(&self, names: &[&str]) -> Result<BTreeMap<String, String>> {
        let arguments = [&["load-application-images", "--name", &self.name], names].concat();
        run_cluster_tool(&self.config, &arguments).await?;
        let references = self
            .config
            .checkout
            .target
            .join("images/applications/images.json");
        read_json(&references)
    }

    /// Returns a command that runs a program of this machine with the files of the node.
    pub(crate) fn with_node_files(&self, program: &str) -> Command {
        host::in_mounts_of(self.node_pid, program)
    }

    /// Returns a command that runs a program of this machine in the node's network namespace.
    pub(crate) fn in_node_network(&self, program: &str) -> Command {
        host::in_network_of(self.node_pid, program)
    }
}

async fn run_cluster_tool(config: &Config, arguments: &[&str]) -> Result<()> {
    let status = Command::from(config.checkout.cluster_tool(arguments))
        .status()
        .await
        .context("python3 cannot be started")?;
    ensure!(
        status.success(),
        "the cluster tool (kermode_cluster {}) ended with {status}",
        arguments.join(" ")
    );
    Ok(())
}
