//! Flags of `kumactl install control-plane`. A flag that Kuma also has keeps Kuma's name.

use clap::{Args, ValueEnum};
use kermode_install::FailurePolicy;

use crate::version::VERSION;

/// Default of `--namespace`.
pub(crate) const DEFAULT_NAMESPACE: &str = "kong-mesh-system";
/// Default registry of the images. No public registry has this name, so an installation without `--registry` runs only
/// images that were loaded onto the nodes.
const DEFAULT_REGISTRY: &str = "localhost/kermode";

/// Flags of `kumactl install control-plane`.
#[derive(Args, Clone, Debug)]
pub(crate) struct ControlPlaneArgs {
    /// Namespace of the control plane. The manifests create it.
    #[arg(long, default_value = DEFAULT_NAMESPACE, value_name = "NAME")]
    pub(super) namespace: String,

    /// Mode of the control plane: a single cluster, or one zone of several.
    #[arg(long, value_enum, default_value_t = ModeArg::Standalone)]
    pub(super) mode: ModeArg,

    /// Name of this zone, the value of the tag kuma.io/zone of every inbound.
    #[arg(long, value_name = "NAME")]
    pub(super) zone: Option<String>,

    /// Address of a global control plane. Not supported yet: the command fails.
    #[arg(long, value_name = "URL", hide = true)]
    pub(super) kds_global_address: Option<String>,

    /// Number of replicas of the control plane.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub(super) replicas: u16,

    #[command(flatten)]
    pub(super) images: ImageArgs,

    /// Failure policy of the injector, for Pods that have an injection label or whose namespace has one. While no
    /// replica is ready, Fail denies these Pods and Ignore admits them without a sidecar.
    #[arg(long, value_enum, default_value_t = FailurePolicyArg::Fail)]
    pub(super) injector_failure_policy: FailurePolicyArg,

    /// Environment variable of the control plane, KEY=VALUE; repeatable. A text with one "=" is a single variable,
    /// whose value may contain commas. A text with several "=" is a comma-separated list of KEY=VALUE.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(super) env_var: Vec<String>,

    /// Setting of the control plane's configuration file, PATH=VALUE, for example
    /// runtime.kubernetes.injector.containerPatches=[a,b]; repeatable. The value is YAML. A dot that belongs to a key
    /// is written "\.".
    #[arg(long, value_name = "PATH=VALUE")]
    pub(super) set: Vec<String>,

    #[command(flatten)]
    pub(super) cni: CniArgs,

    /// URL at which the API server calls the webhooks, instead of the Service; for a control plane outside of the
    /// cluster.
    #[arg(long, value_name = "https://HOST:PORT")]
    pub(super) webhook_url: Option<String>,

    /// Leave out the Deployment, for a control plane outside of the cluster. The Service then has no selector:
    /// create an EndpointSlice with the address of the control plane.
    #[arg(long)]
    pub(super) without_deployment: bool,

    /// Accepted for compatibility with Kuma, without effect: no cluster is contacted.
    #[arg(long)]
    #[allow(dead_code, reason = "the flag is accepted without effect")]
    without_kubernetes_connection: bool,
}

/// Flags for the CNI plugin.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "CNI plugin")]
#[allow(clippy::struct_field_names, reason = "the fields have the names of the flags")]
pub(super) struct CniArgs {
    /// Redirect traffic with a CNI plugin in place of an init container, so that injected Pods need no privileges. A
    /// DaemonSet in kube-system installs the plugin on each node.
    #[arg(long)]
    pub(super) cni_enabled: bool,

    /// Add the plugin to the network configuration of each node. With =false, the plugin gets a configuration of its
    /// own, which Multus calls.
    #[arg(
        long,
        default_value_t = true,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        action = clap::ArgAction::Set,
        value_name = "BOOLEAN"
    )]
    pub(super) cni_chained: bool,

    /// Folder of the nodes with network configurations [default: /etc/cni/net.d; not chained: /etc/cni/multus/net.d].
    #[arg(long, value_name = "PATH")]
    pub(super) cni_net_dir: Option<String>,

    /// Folder of the nodes with plugins [default: /opt/cni/bin; not chained: /var/lib/cni/bin].
    #[arg(long, value_name = "PATH")]
    pub(super) cni_bin_dir: Option<String>,

    /// Network configuration that the plugin is added to [default: the first valid one; not chained: kuma-cni.conf].
    #[arg(long, value_name = "NAME")]
    pub(super) cni_conf_name: Option<String>,

    /// Registry of the plugin's image, in place of --registry.
    #[arg(long, value_name = "REGISTRY")]
    pub(super) cni_registry: Option<String>,
    /// Repository of the plugin's image.
    #[arg(long, default_value = "kuma-cni", value_name = "NAME")]
    pub(super) cni_repository: String,
    /// Tag of the plugin's image.
    #[arg(long, default_value = VERSION, value_name = "TAG")]
    pub(super) cni_version: String,
}

/// Flags for the images, `<registry>/<repository>:<version>`.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Images")]
pub(super) struct ImageArgs {
    /// Registry of all images.
    #[arg(long, default_value = DEFAULT_REGISTRY, value_name = "REGISTRY")]
    pub(super) registry: String,

    /// Secret with credentials for the registry, for the Pods of the control plane and for injected Pods; repeatable.
    /// It must exist in the namespace of each of these Pods.
    #[arg(long = "image-pull-secret", value_name = "NAME")]
    pub(super) image_pull_secrets: Vec<String>,

    /// Registry of the control plane's image, in place of --registry.
    #[arg(long, value_name = "REGISTRY")]
    pub(super) control_plane_registry: Option<String>,
    /// Repository of the control plane's image.
    #[arg(long, default_value = "kuma-cp", value_name = "NAME")]
    pub(super) control_plane_repository: String,
    /// Tag of the control plane's image.
    #[arg(long, default_value = VERSION, value_name = "TAG")]
    pub(super) control_plane_version: String,

    /// Registry of the sidecar's image, in place of --registry.
    #[arg(long, value_name = "REGISTRY")]
    pub(super) dataplane_registry: Option<String>,
    /// Repository of the sidecar's image.
    #[arg(long, default_value = "kuma-dp", value_name = "NAME")]
    pub(super) dataplane_repository: String,
    /// Tag of the sidecar's image.
    #[arg(long, default_value = VERSION, value_name = "TAG")]
    pub(super) dataplane_version: String,

    /// Registry of the init container's image, in place of --registry.
    #[arg(long, value_name = "REGISTRY")]
    pub(super) dataplane_init_registry: Option<String>,
    /// Repository of the init container's image.
    #[arg(long, default_value = "kuma-init", value_name = "NAME")]
    pub(super) dataplane_init_repository: String,
    /// Tag of the init container's image.
    #[arg(long, default_value = VERSION, value_name = "TAG")]
    pub(super) dataplane_init_version: String,
}

/// Values of `--mode`, as in Kuma.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum ModeArg {
    /// A single cluster.
    Standalone,
    /// One zone of several.
    Zone,
    /// Global control plane. Not supported yet: the command fails.
    #[value(hide = true)]
    Global,
}

/// Values of `--injector-failure-policy`, spelled as in a webhook registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum FailurePolicyArg {
    /// Deny the Pod.
    #[value(name = "Fail")]
    Fail,
    /// Admit the Pod without a sidecar.
    #[value(name = "Ignore")]
    Ignore,
}

impl From<FailurePolicyArg> for FailurePolicy {
    fn from(policy: FailurePolicyArg) -> Self {
        match policy {
            FailurePolicyArg::Fail => Self::Fail,
            FailurePolicyArg::Ignore => Self::Ignore,
        }
    }
}
