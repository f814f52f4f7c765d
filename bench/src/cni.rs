//! Parts of `make bench-cni`: a node with two network configurations, with and without `kuma-cni`, and `cnitool`, which
//! runs their plugins for a Pod.
//!
//! Everything runs in the network namespace of the API server's node, so the host's network stays as it is.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use k8s_openapi::ByteString;
use kermode_cni::{Installer, Settings};
use kube::config::Kubeconfig;
use serde_json::{Value, json};

use crate::cluster::{ApiServer, run};
use crate::config::Config;
use crate::process::Process;

/// Namespace of the Pods.
const NAMESPACE: &str = "bench-cni";
/// Name of the network namespace of a Pod, in `ip netns`.
const POD_NETWORK: &str = "kermode-bench-cni";
/// Plugins of the configuration before `kuma-cni`. They are the most common ones without a daemon.
const CHAINED_PLUGINS: [&str; 3] = ["ptp", "host-local", "portmap"];
/// Folder of Debian with these plugins.
const DEBIAN_PLUGINS: &str = "/usr/lib/cni";

/// Name of a network configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// The chained plugins alone.
    WithoutPlugin,
    /// The chained plugins, and `kuma-cni` after them.
    WithPlugin,
}

/// Pods in the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodName {
    /// A Pod with a sidecar, which gets rules.
    Injected,
    /// A Pod outside of the mesh, which gets no rules.
    Outside,
}

/// Cost of ADD of all plugins of a network.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// Duration.
    pub wall: Duration,
    /// CPU time of `cnitool`, the plugins, and the programs that they run. The resolution is usually 10 ms.
    pub cpu: Duration,
}

/// A node with network configurations and plugins.
pub struct Node<'a> {
    folder: tempfile::TempDir,
    api_server: &'a ApiServer,
    cnitool: PathBuf,
    /// This process, whose children are the measured programs.
    benchmark: Process,
}

impl Network {
    fn name(self) -> &'static str {
        match self {
            Self::WithoutPlugin => "without",
            Self::WithPlugin => "with",
        }
    }
}

impl PodName {
    fn name(self) -> &'static str {
        match self {
            Self::Injected => "injected",
            Self::Outside => "outside",
        }
    }
}

// === impl Node ===

impl<'a> Node<'a> {
    /// Prepares the node, and creates the Pods.
    ///
    /// # Errors
    /// When a program or plugin is missing, or the API server does not accept an object.
    pub fn new(api_server: &'a ApiServer, config: &Config) -> Result<Self> {
        api_server.apply(&objects())?;
        let node = Self {
            folder: tempfile::tempdir()?,
            api_server,
            cnitool: config.checkout.cache.join("tools/cnitool"),
            benchmark: Process::new(std::process::id())?,
        };
        for folder in ["networks", "programs", "credentials", "addresses", "tools"] {
            fs::create_dir(node.path(folder))?;
        }
        for plugin in CHAINED_PLUGINS {
            let program = Path::new(DEBIAN_PLUGINS).join(plugin);
            symlink(program, node.path("programs").join(plugin))?;
        }
        for network in [Network::WithoutPlugin, Network::WithPlugin] {
            let text = node.chained_plugins(network).to_string();
            fs::write(node.path(&format!("networks/{}.conflist", network.name())), text)?;
        }
        kermode_checkout::copy_with_libraries(Path::new("/usr/sbin/nft"), &node.path("tools"))?;
        node.write_credentials()?;
        let mut installer = Installer::new(node.settings(config)?);
        installer.install()?;
        Ok(node)
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn chained_plugins(&self, network: Network) -> Value {
        json!({
            "cniVersion": "1.0.0",
            "name": network.name(),
            "plugins": [
                {
                    "type": "ptp", "ipMasq": true,
                    "ipam": {
                        "type": "host-local", "dataDir": self.path("addresses"),
                        "ranges": [[{"subnet": "10.245.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}],
                    },
                },
                {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true},
            ],
        })
    }

    /// Writes the files that the kubelet mounts into the installer's Pod.
    fn write_credentials(&self) -> Result<()> {
        let token = self
            .api_server
            .kubectl(&["create", "token", "kuma-cni", "--namespace", NAMESPACE])?;
        fs::write(self.path("credentials/token"), token)?;
        let cluster = self.cluster()?;
        let roots = cluster
            .certificate_authority_data
            .context("the kubeconfig has no root")?;
        let roots: ByteString = serde_json::from_value(roots.into())?;
        fs::write(self.path("credentials/ca.crt"), roots.0)?;
        Ok(())
    }

    fn cluster(&self) -> Result<kube::config::Cluster> {
        let kubeconfig = Kubeconfig::read_from(self.api_server.kubeconfig())?;
        let cluster = kubeconfig.clusters.into_iter().next();
        cluster
            .and_then(|cluster| cluster.cluster)
            .context("the kubeconfig names no cluster")
    }

    fn settings(&self, config: &Config) -> Result<Settings> {
        Ok(Settings {
            node: "/".into(),
            network_folder: self.path("networks"),
            program_folder: self.path("programs"),
            network_name: Some(format!("{}.conflist", Network::WithPlugin.name())),
            is_chained: true,
            program: config.checkout.release_binary("kuma-cni"),
            tools: Some(self.path("tools")),
            credentials: self.path("credentials"),
            api_server: self
                .cluster()?
                .server
                .context("the kubeconfig names no API server")?,
            excluded_namespaces: vec!["kube-system".to_owned()],
        })
    }

    /// Creates a network namespace, runs ADD of all plugins for it, and removes both. Returns the cost of ADD.
    ///
    /// # Errors
    /// When a plugin fails, or an injected Pod has no rules after `kuma-cni`.
    pub fn add(&self, network: Network, pod: PodName) -> Result<Cost> {
        self.in_network("ip", &["netns", "add", POD_NETWORK])?;
        let outcome = self.add_to_network(network, pod);
        let removed = self.in_network("ip", &["netns", "delete", POD_NETWORK]);
        let cost = outcome?;
        removed?;
        Ok(cost)
    }

    fn add_to_network(&self, network: Network, pod: PodName) -> Result<Cost> {
        let cpu_before = self.benchmark.cpu_time_of_children()?;
        let start = Instant::now();
        self.cnitool("add", network, pod)?;
        let cost = Cost {
            wall: start.elapsed(),
            cpu: self.benchmark.cpu_time_of_children()?.saturating_sub(cpu_before),
        };
        let rules = self.in_network("ip", &["netns", "exec", POD_NETWORK, "nft", "list", "tables"])?;
        let expects_rules = network == Network::WithPlugin && pod == PodName::Injected;
        anyhow::ensure!(
            rules.contains("kuma_mesh") == expects_rules,
            "rules of Pod {} with network {}: {rules:?}",
            pod.name(),
            network.name()
        );
        self.cnitool("del", network, pod)?;
        Ok(cost)
    }

    fn cnitool(&self, operation: &str, network: Network, pod: PodName) -> Result<()> {
        let arguments = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={NAMESPACE};K8S_POD_NAME={}",
            pod.name()
        );
        let mut command = self.api_server.in_network(&self.cnitool)?;
        command
            .args([operation, network.name()])
            .arg(Path::new("/run/netns").join(POD_NETWORK))
            .env("NETCONFPATH", self.path("networks"))
            .env("CNI_PATH", self.path("programs"))
            .env("CNI_ARGS", arguments);
        run(command).map(drop)
    }

    fn in_network(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let mut command = self.api_server.in_network(Path::new(program))?;
        command.args(arguments);
        run(command)
    }
}

/// Returns the objects of the API server: the Pods, and the service account of `kuma-cni`.
fn objects() -> String {
    let pod = |pod: PodName, annotations: Value| {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": pod.name(), "namespace": NAMESPACE, "annotations": annotations},
            "spec": {"containers": [
                {"name": "kuma-sidecar", "image": "sidecar"}, {"name": "app", "image": "app"},
            ]},
        })
    };
    let rbac = "rbac.authorization.k8s.io";
    let objects = [
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}),
        json!({"apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": "kuma-cni", "namespace": NAMESPACE}}),
        json!({"apiVersion": format!("{rbac}/v1"), "kind": "ClusterRole", "metadata": {"name": NAMESPACE},
            "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]}),
        json!({"apiVersion": format!("{rbac}/v1"), "kind": "ClusterRoleBinding", "metadata": {"name": NAMESPACE},
            "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": NAMESPACE},
            "subjects": [{"kind": "ServiceAccount", "name": "kuma-cni", "namespace": NAMESPACE}]}),
        pod(
            PodName::Injected,
            json!({"kuma.io/sidecar-injected": "true", "kuma.io/sidecar-uid": "5678"}),
        ),
        pod(PodName::Outside, json!({})),
    ];
    objects.map(|object| object.to_string()).join("\n---\n")
}
