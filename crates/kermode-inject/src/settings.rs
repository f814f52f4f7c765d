//! Settings of injection and their defaults: section `runtime.kubernetes.injector` of the control plane's configuration
//! (docs/reference/configuration.md#table).

pub mod environment;
mod overlay;
mod problems;
mod sidecar;

use std::collections::BTreeMap;
use std::time::Duration;

use kermode_model::KubernetesVersion;
use serde::{Deserialize, Serialize};

pub use self::sidecar::{ProbeSettings, ResourceAmounts, Resources, SidecarContainer};
use crate::quantity::Quantity;

/// Settings of injection. The keys are those of Kuma's configuration file; unknown keys are errors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
#[allow(clippy::struct_excessive_bools)] // the keys of Kuma's file
pub struct Settings {
    /// Whether the CNI plugin, instead of `kuma-init`, sets up the redirection of traffic.
    pub cni_enabled: bool,
    /// Whether the container runtime calls the CNI plugin after other plugins. Otherwise, Multus calls the plugin for
    /// the network `kuma-cni`, which injection adds to the Pod's networks.
    pub cni_chained: bool,
    /// Names of the ContainerPatches that apply to Pods without the annotation `kuma.io/container-patches`.
    pub container_patches: Vec<String>,
    /// Secrets with credentials for the registry of the images. They are appended to the list of each injected Pod, and
    /// must exist in its Namespace.
    pub image_pull_secrets: Vec<String>,
    /// Path of the file with the CA certificates that sidecars use to verify the control plane's certificate. The
    /// control plane passes the content of the file as [`crate::Context::control_plane_ca_pem`].
    pub ca_cert_file: String,
    /// Whether the application's probes and HTTP lifecycle hooks are redirected to the sidecar.
    pub virtual_probes_enabled: bool,
    /// Port of the virtual probes.
    pub virtual_probes_port: u16,
    /// Pods that are never injected.
    pub exceptions: Exceptions,
    /// Ports that are excluded from redirection.
    pub sidecar_traffic: SidecarTraffic,
    /// Container `kuma-sidecar`.
    pub sidecar_container: SidecarContainer,
    /// Container `kuma-init`.
    pub init_container: InitContainer,
    /// DNS server of the sidecar.
    #[serde(rename = "builtinDNS")]
    pub builtin_dns: BuiltinDns,
    /// Whether `--experimental-transparent-proxy-engine` is passed to `kuma-init`, which ignores it.
    pub transparent_proxy_v2: bool,
    /// eBPF mode, which must be disabled: it is not supported.
    pub ebpf: Ebpf,
    /// Placement of the sidecar (docs/design.md#sidecar-modes).
    pub sidecar_mode: SidecarMode,
    /// Security contexts of the injected containers (docs/design.md#security-profiles).
    pub security_profile: SecurityProfile,
    /// Condition that ends the sidecar's drain (docs/design.md#drain-modes).
    pub drain_mode: DrainMode,
    /// Time between the start of a Pod's termination and the stop of its application, for containers without a preStop
    /// hook (docs/design.md#delayed-stop). Zero adds no hooks. Rounded up to whole seconds.
    #[serde(with = "kermode_model::duration::go_notation")]
    pub application_stop_delay: Duration,
    /// Whether the API server supports restartable init containers (1.29 and later). This is not configuration: the
    /// control plane derives it from the API server's version.
    #[serde(skip)]
    pub native_sidecars_supported: bool,
    /// Whether the API server supports the lifecycle handler `sleep` (1.30 and later). The control plane derives it from
    /// the API server's version, too.
    #[serde(skip)]
    pub sleep_hooks_supported: bool,
}

/// Pods that are never injected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Exceptions {
    /// Labels by key. A Pod with one of them is not injected. The value `*` matches any value.
    pub labels: BTreeMap<String, String>,
}

/// Ports that are excluded from redirection, unless a Pod's annotation overrides them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct SidecarTraffic {
    /// Destination ports of incoming connections.
    pub exclude_inbound_ports: Vec<u16>,
    /// Destination ports of outgoing connections.
    pub exclude_outbound_ports: Vec<u16>,
}

/// Container `kuma-init`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct InitContainer {
    /// Image.
    pub image: String,
    /// Resource requests and limits.
    #[serde(deserialize_with = "overlay::init_resources")]
    pub resources: Resources,
}

/// DNS server of the sidecar.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct BuiltinDns {
    /// Whether DNS is redirected to the sidecar.
    pub enabled: bool,
    /// Port of the DNS server.
    pub port: u16,
}

/// Settings of Kuma's eBPF mode, which Kermode does not support.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Ebpf {
    /// Must be false.
    pub enabled: bool,
}

/// Configured placement of the sidecar in the Pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SidecarMode {
    /// `Native` if every kubelet supports native sidecars, else `Classic`.
    #[default]
    Auto,
    /// A restartable init container.
    Native,
    /// The first ordinary container.
    Classic,
}

/// Security contexts of the injected containers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SecurityProfile {
    /// Sets only the user, the group and the required capabilities. In a Namespace that enforces Pod Security
    /// `restricted`, the profile `Restricted` applies instead.
    #[default]
    Default,
    /// The sidecar meets Pod Security `restricted`. `kuma-init` drops the privileges that it does not need.
    Restricted,
}

/// Condition that ends the sidecar's drain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DrainMode {
    /// The drain lasts the whole drain time.
    #[default]
    Wait,
    /// The drain ends when every proxy has acknowledged the removal of the endpoint, or after the drain time.
    Acknowledged,
}

// === impl Settings ===

impl Settings {
    /// Whether injection adds the network `kuma-cni` to the networks of a Pod
    /// (docs/design.md#network-configuration-of-a-node).
    pub fn names_cni_network(&self) -> bool {
        self.cni_enabled && !self.cni_chained
    }

    /// Derives the settings that depend on the version of the API server. `None` is a version that cannot be parsed.
    pub fn set_api_server_version(&mut self, version: Option<KubernetesVersion>) {
        self.native_sidecars_supported = version.is_some_and(KubernetesVersion::supports_native_sidecars);
        self.sleep_hooks_supported = version.is_some_and(KubernetesVersion::supports_sleep_hooks);
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            cni_enabled: false,
            cni_chained: false,
            container_patches: Vec::new(),
            image_pull_secrets: Vec::new(),
            ca_cert_file: String::new(),
            virtual_probes_enabled: true,
            virtual_probes_port: 9000,
            exceptions: Exceptions::default(),
            sidecar_traffic: SidecarTraffic::default(),
            sidecar_container: SidecarContainer::default(),
            init_container: InitContainer::default(),
            builtin_dns: BuiltinDns::default(),
            transparent_proxy_v2: false,
            ebpf: Ebpf::default(),
            sidecar_mode: SidecarMode::default(),
            security_profile: SecurityProfile::default(),
            drain_mode: DrainMode::default(),
            application_stop_delay: Duration::from_secs(5),
            native_sidecars_supported: false,
            sleep_hooks_supported: false,
        }
    }
}

impl Default for Exceptions {
    fn default() -> Self {
        let any = |key: &str| (key.to_owned(), "*".to_owned());
        Self {
            labels: BTreeMap::from([
                any("openshift.io/build.name"),
                any("openshift.io/deployer-pod-for.name"),
            ]),
        }
    }
}

impl Default for InitContainer {
    fn default() -> Self {
        Self {
            image: "kuma/kuma-init:latest".to_owned(),
            resources: Resources {
                requests: ResourceAmounts::new_unchecked("20m", "20M"),
                limits: ResourceAmounts::new_unchecked("100m", "50M"),
            },
        }
    }
}

impl Default for BuiltinDns {
    fn default() -> Self {
        Self {
            enabled: true,
            port: 15053,
        }
    }
}

impl ResourceAmounts {
    pub(crate) fn new_unchecked(cpu: &str, memory: &str) -> Self {
        Self {
            cpu: Quantity::new_unchecked(cpu),
            memory: Quantity::new_unchecked(memory),
        }
    }
}
