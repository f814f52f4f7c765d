//! Command line of the installer.

use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};
use k8s_openapi::api::core::v1::ObjectReference;
use kermode_cni::Settings;

/// CNI plugin that redirects the traffic of pods to their sidecar. A container runtime runs it without arguments.
#[derive(Debug, Parser)]
#[command(name = "kuma-cni", version)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
}

/// Commands.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Install the plugin on this node, keep it installed, and remove it at SIGTERM.
    Install(Box<InstallArgs>),
    /// Print the state of the installation; succeed if the plugin is installed.
    Ready(ReadyArgs),
}

/// Flags of `kuma-cni ready`.
#[derive(Args, Debug)]
pub(super) struct ReadyArgs {
    /// File with the state.
    #[arg(long, default_value = DEFAULT_STATE_FILE, value_name = "PATH")]
    pub(super) state_file: PathBuf,
}

const DEFAULT_STATE_FILE: &str = "/run/kuma-cni/state";

/// Flags of `kuma-cni install`. Flags that begin with `cni` have the same names in `kumactl install control-plane`.
#[derive(Args, Debug)]
pub(super) struct InstallArgs {
    /// Folder of the node with network configurations.
    #[arg(long, default_value = "/etc/cni/net.d", value_name = "PATH")]
    cni_net_dir: PathBuf,
    /// Folder of the node with plugins.
    #[arg(long, default_value = "/opt/cni/bin", value_name = "PATH")]
    cni_bin_dir: PathBuf,
    /// File that the plugin is added to, or that the plugin gets if it is not chained. By default the first valid
    /// configuration, or kuma-cni.conf.
    #[arg(long, value_name = "NAME")]
    cni_conf_name: Option<String>,
    /// Add the plugin to an existing network configuration.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOLEAN")]
    cni_chained: bool,
    /// Namespace whose pods start without the plugin; repeatable.
    #[arg(long = "exclude-namespace", value_name = "NAME")]
    pub(super) excluded_namespaces: Vec<String>,
    /// Folder at which the root of the node's file system is mounted. Only the folders above and the network namespaces
    /// have to be mounted below it.
    #[arg(long, default_value = "/host", value_name = "PATH")]
    node_root: PathBuf,
    /// Folder of the node with the network namespaces of pods.
    #[arg(long, default_value = "/run/netns", value_name = "PATH")]
    network_namespaces: PathBuf,
    /// Folder of the node in which the container runtime records the networks of pods.
    #[arg(long, default_value = "/var/lib/cni/results", value_name = "PATH")]
    cni_results: PathBuf,
    /// Folder with nft and its libraries, which are copied to the node. Without it, the plugin uses the node's nft.
    #[arg(long, value_name = "PATH")]
    pub(super) tools: Option<PathBuf>,
    /// Folder with the files token and ca.crt of the service account.
    #[arg(
        long,
        default_value = "/var/run/secrets/kubernetes.io/serviceaccount",
        value_name = "PATH"
    )]
    credentials: PathBuf,
    /// File to which the state is written, for kuma-cni ready.
    #[arg(long, default_value = DEFAULT_STATE_FILE, value_name = "PATH")]
    pub(super) state_file: PathBuf,
    /// Level of the log: error, warn, info, debug or trace.
    #[arg(long, default_value = "info", value_name = "LEVEL")]
    pub(super) log_level: String,
    /// Host of the API server.
    #[arg(long, env = "KUBERNETES_SERVICE_HOST", value_name = "HOST")]
    api_server_host: String,
    /// Port of the API server.
    #[arg(
        long,
        env = "KUBERNETES_SERVICE_PORT",
        default_value_t = 443,
        value_name = "PORT"
    )]
    api_server_port: u16,
    /// Name of this node.
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    pub(super) node_name: String,
    /// Name of the installer's pod, which Events are about.
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pod_name: String,
    /// Namespace of the installer's pod.
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAME")]
    pod_namespace: String,
    /// UID of the installer's pod.
    #[arg(long, env = "POD_UID", value_name = "UID")]
    pod_uid: String,
}

impl InstallArgs {
    /// Returns what is installed, and where.
    pub(super) fn settings(&self) -> Settings {
        Settings {
            node: self.node_root.clone(),
            network_folder: self.cni_net_dir.clone(),
            program_folder: self.cni_bin_dir.clone(),
            network_name: self.cni_conf_name.clone(),
            is_chained: self.cni_chained,
            program: PathBuf::from("/proc/self/exe"),
            tools: self.tools.clone(),
            credentials: self.credentials.clone(),
            api_server: self.api_server(),
            excluded_namespaces: self.excluded_namespaces.clone(),
        }
    }

    /// Returns the folder by which this process reaches the network namespaces of pods.
    pub(super) fn network_namespaces(&self) -> PathBuf {
        self.in_node(&self.network_namespaces)
    }

    /// Returns the folder by which this process reaches the records of the container runtime.
    pub(super) fn cni_results(&self) -> PathBuf {
        self.in_node(&self.cni_results)
    }

    fn in_node(&self, folder: &Path) -> PathBuf {
        self.node_root.join(folder.strip_prefix("/").unwrap_or(folder))
    }

    /// Returns a reference to the installer's pod.
    pub(super) fn pod(&self) -> ObjectReference {
        ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: Some(self.pod_namespace.clone()),
            name: Some(self.pod_name.clone()),
            uid: Some(self.pod_uid.clone()),
            ..ObjectReference::default()
        }
    }

    fn api_server(&self) -> String {
        let (host, port) = (&self.api_server_host, self.api_server_port);
        if host.contains(':') {
            format!("https://[{host}]:{port}")
        } else {
            format!("https://{host}:{port}")
        }
    }
}
