//! What the control plane's configuration says of injection: section `runtime.kubernetes.injector`
//! (BEHAVIOUR section 7), with its defaults.

pub mod environment;
mod overlay;
mod problems;
mod sidecar;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use self::sidecar::{ProbeSettings, ResourceAmounts, Resources, SidecarContainer};
use crate::quantity::Quantity;

/// The settings. Keys are those of Kuma's configuration file; unknown keys are errors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
#[allow(clippy::struct_excessive_bools)] // the keys of Kuma's file
pub struct Settings {
    /// Traffic is redirected by the CNI plugin: no `kuma-init`.
    pub cni_enabled: bool,
    /// ContainerPatches for workloads that name none of their own.
    pub container_patches: Vec<String>,
    /// File of the CA that the control plane's certificate is checked against. Read by the control plane, which
    /// hands the text over in [`crate::Context::control_plane_ca_pem`].
    pub ca_cert_file: String,
    /// Whether HTTP probes go through the proxy.
    pub virtual_probes_enabled: bool,
    /// Port of the virtual probes.
    pub virtual_probes_port: u16,
    /// Pods that are never injected.
    pub exceptions: Exceptions,
    /// Ports that are not redirected.
    pub sidecar_traffic: SidecarTraffic,
    /// Container `kuma-sidecar`.
    pub sidecar_container: SidecarContainer,
    /// Container `kuma-init`.
    pub init_container: InitContainer,
    /// The sidecar's DNS.
    #[serde(rename = "builtinDNS")]
    pub builtin_dns: BuiltinDns,
    /// Passes `--experimental-transparent-proxy-engine`; accepted, without effect: there is one engine.
    pub transparent_proxy_v2: bool,
    /// There is no eBPF mode: anything but disabled is a mistake.
    pub ebpf: Ebpf,
    /// How the sidecar is placed (DESIGN decision 12).
    pub sidecar_mode: SidecarMode,
    /// How tightly the containers are confined (DESIGN decision 11).
    pub security_profile: SecurityProfile,
    /// When the sidecar may leave (DESIGN decision 13).
    pub drain_mode: DrainMode,
    /// Whether the API server knows restartable init containers (1.29 and later). Not configuration: the control
    /// plane asks the API server for its version.
    #[serde(skip)]
    pub native_sidecars_supported: bool,
}

/// Pods that are never injected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Exceptions {
    /// Labels by key; the value `*` stands for any.
    pub labels: BTreeMap<String, String>,
}

/// Ports that are not redirected unless a Pod says otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct SidecarTraffic {
    /// Of incoming connections.
    pub exclude_inbound_ports: Vec<u16>,
    /// Of outgoing connections.
    pub exclude_outbound_ports: Vec<u16>,
}

/// Container `kuma-init`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct InitContainer {
    /// Its image.
    pub image: String,
    /// Its requests and limits.
    #[serde(deserialize_with = "overlay::init_resources")]
    pub resources: Resources,
}

/// The sidecar's DNS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct BuiltinDns {
    /// Whether DNS is redirected to the sidecar.
    pub enabled: bool,
    /// The port it listens on.
    pub port: u16,
}

/// Settings of a mode that Kermode does not have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Ebpf {
    /// Must be false.
    pub enabled: bool,
}

/// How the sidecar is placed in the Pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SidecarMode {
    /// Native where the API server supports it.
    #[default]
    Auto,
    /// An init container that keeps running.
    Native,
    /// The first ordinary container.
    Classic,
}

/// How tightly the containers are confined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SecurityProfile {
    /// User and group of the manual page, nothing else; tightened where the namespace enforces Pod Security
    /// `restricted`.
    #[default]
    Default,
    /// Passes Pod Security `restricted`.
    Restricted,
}

/// When the sidecar may leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DrainMode {
    /// After the whole drain time.
    #[default]
    Wait,
    /// As soon as every client has acknowledged, the drain time being the upper bound.
    Acknowledged,
}

// === impl Settings ===

impl Default for Settings {
    fn default() -> Self {
        Self {
            cni_enabled: false,
            container_patches: Vec::new(),
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
            native_sidecars_supported: false,
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
