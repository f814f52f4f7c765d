//! Flags of `kumactl install control-plane`, with Kuma's names where Kuma has them (BEHAVIOUR section 7).

use clap::{Args, ValueEnum};

use crate::version::VERSION;

/// Where images are looked for unless a flag says otherwise: a name that no public registry answers to, so an
/// installation without `--registry` runs images that were loaded onto the nodes, or none.
const DEFAULT_REGISTRY: &str = "localhost/kermode";

/// The flags.
#[derive(Args, Clone, Debug)]
pub(crate) struct ControlPlaneArgs {
    /// Namespace of the control plane; it is created.
    #[arg(long, default_value = "kong-mesh-system", value_name = "NAME")]
    pub(super) namespace: String,

    /// Whether this cluster is all there is, or one zone of several.
    #[arg(long, value_enum, default_value_t = ModeArg::Standalone)]
    pub(super) mode: ModeArg,

    /// Name of this zone; workloads get the tag kuma.io/zone.
    #[arg(long, value_name = "NAME")]
    pub(super) zone: Option<String>,

    /// Address of a global control plane. There is none yet: the flag is refused.
    #[arg(long, value_name = "URL", hide = true)]
    pub(super) kds_global_address: Option<String>,

    /// Replicas of the control plane.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub(super) replicas: u16,

    #[command(flatten)]
    pub(super) images: ImageArgs,

    /// What happens to Pods in labelled namespaces, and to labelled Pods, while the control plane cannot be
    /// reached: Fail refuses them, Ignore starts them outside the mesh.
    #[arg(long, value_enum, default_value_t = FailurePolicyArg::Fail)]
    pub(super) injector_failure_policy: FailurePolicyArg,

    /// Environment variable of the control plane, KEY=VALUE; repeatable. A value with a single "=" is taken
    /// whole, commas included; one with more is a comma-separated list of KEY=VALUE.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(super) env_var: Vec<String>,

    /// Setting of the control plane's configuration file, PATH=VALUE, for example
    /// runtime.kubernetes.injector.containerPatches=[a,b]; repeatable. The value is read as YAML. A dot that
    /// belongs to a key is written "\.".
    #[arg(long, value_name = "PATH=VALUE")]
    pub(super) set: Vec<String>,

    /// Set up redirection with a CNI plugin in place of an init container. There is no plugin yet: the flag
    /// is refused.
    #[arg(long)]
    pub(super) cni_enabled: bool,

    /// Have the API server call the webhooks at this https address in place of the Service, for a control
    /// plane outside the cluster.
    #[arg(long, value_name = "https://HOST:PORT")]
    pub(super) webhook_url: Option<String>,

    /// Leave out the Deployment, for a control plane that runs elsewhere. Everything else is there; the Service
    /// has no selector, so an EndpointSlice of yours can lead to that control plane.
    #[arg(long)]
    pub(super) without_deployment: bool,

    /// Accepted for compatibility: no cluster is ever contacted.
    #[arg(long)]
    #[allow(dead_code, reason = "the flag asks for what is always so")]
    without_kubernetes_connection: bool,
}

/// Flags that choose images: registry/repository:version.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Images")]
pub(super) struct ImageArgs {
    /// Registry of all images.
    #[arg(long, default_value = DEFAULT_REGISTRY, value_name = "REGISTRY")]
    pub(super) registry: String,

    /// Registry of the control plane's image, if another.
    #[arg(long, value_name = "REGISTRY")]
    pub(super) control_plane_registry: Option<String>,
    /// Repository of the control plane's image.
    #[arg(long, default_value = "kuma-cp", value_name = "NAME")]
    pub(super) control_plane_repository: String,
    /// Tag of the control plane's image.
    #[arg(long, default_value = VERSION, value_name = "TAG")]
    pub(super) control_plane_version: String,

    /// Registry of the sidecar's image, if another.
    #[arg(long, value_name = "REGISTRY")]
    pub(super) dataplane_registry: Option<String>,
    /// Repository of the sidecar's image.
    #[arg(long, default_value = "kuma-dp", value_name = "NAME")]
    pub(super) dataplane_repository: String,
    /// Tag of the sidecar's image.
    #[arg(long, default_value = VERSION, value_name = "TAG")]
    pub(super) dataplane_version: String,

    /// Registry of the init container's image, if another.
    #[arg(long, value_name = "REGISTRY")]
    pub(super) dataplane_init_registry: Option<String>,
    /// Repository of the init container's image.
    #[arg(long, default_value = "kuma-init", value_name = "NAME")]
    pub(super) dataplane_init_repository: String,
    /// Tag of the init container's image.
    #[arg(long, default_value = VERSION, value_name = "TAG")]
    pub(super) dataplane_init_version: String,
}

/// Values of `--mode`, those of Kuma.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum ModeArg {
    /// One cluster.
    Standalone,
    /// A named zone.
    Zone,
    /// Control plane of several zones; refused, with a reason.
    #[value(hide = true)]
    Global,
}

/// Values of `--injector-failure-policy`, spelled as in a webhook configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum FailurePolicyArg {
    /// Refuse.
    #[value(name = "Fail")]
    Fail,
    /// Let pass.
    #[value(name = "Ignore")]
    Ignore,
}

impl FailurePolicyArg {
    /// The value as the API spells it.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Fail => "Fail",
            Self::Ignore => "Ignore",
        }
    }
}
