//! The control plane's configuration: the layout of Kuma's file, `KUMA_*` variables, defaults and validation.
//!
//! `kuma-cp` loads the file at the start, and `kumactl` loads the same file for its offline commands. Both use this
//! crate, so they accept the same files and report the same problems. `docs/reference/configuration.md` lists every
//! setting.

mod load;
mod settings;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Duration;

use kermode_model::{
    DEFAULT_CLOCK_TOLERANCE, DEFAULT_VIRTUAL_IP_RANGE, MAX_CLOCK_TOLERANCE, MESH_DOMAIN, VIRTUAL_IP_PORT,
    VirtualIpRange, duration,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use load::InvalidConfig;
pub use settings::{Setting, settings};

use load::{ConfigFile, OverrideRules, Variable};

/// Configuration of one replica of the control plane. Field names are the keys of the file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Config {
    /// Name of this replica: the name of its Pod, or empty outside of a cluster.
    pub instance: String,
    /// Settings of all certificates that the control plane issues.
    pub general: General,
    /// Logging.
    pub log: Log,
    /// Storage of the control plane's own objects, not the store of encoded resources.
    pub store: Store,
    /// Integration with Kubernetes.
    pub runtime: Runtime,
    /// Server for proxies: xDS and certificates.
    pub dp_server: DpServer,
    /// Names of the mesh.
    pub dns_server: DnsServer,
    /// Server for operators: health, metrics and `/debug`.
    pub diagnostics: Diagnostics,
    /// Bootstrap configuration of Envoy.
    pub bootstrap_server: BootstrapServer,
    /// Multi-zone deployment.
    pub multizone: Multizone,
    /// Objects that are created at the start.
    pub defaults: Defaults,
    /// Traces of the control plane.
    pub tracing: Tracing,
}

/// Section `general`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct General {
    /// Largest difference between the clocks of the issuer and of a verifier at which the verifier still accepts a new
    /// certificate.
    #[serde(with = "kermode_model::duration::go_notation")]
    pub clock_tolerance: Duration,
}

/// Section `log`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Log {
    /// Log level, or a filter such as `info,kermode_xds=debug`.
    pub level: String,
    /// Format of log lines.
    pub format: LogFormat,
}

/// Format of log lines: `text` or `json`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One line of text for each event.
    #[default]
    Text,
    /// One JSON object for each event.
    Json,
}

/// Section `store`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Store {
    /// Objects in the API server.
    pub kubernetes: StoreKubernetes,
}

/// Section `store.kubernetes`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StoreKubernetes {
    /// Namespace of the control plane.
    pub system_namespace: String,
}

/// Section `runtime`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Runtime {
    /// Integration with Kubernetes.
    pub kubernetes: Kubernetes,
}

/// Section `runtime.kubernetes`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Kubernetes {
    /// Name of the control plane's Service.
    pub control_plane_service_name: String,
    /// Server of the admission webhooks.
    pub admission_server: AdmissionServer,
    /// Injection of sidecars.
    pub injector: kermode_inject::Settings,
}

/// Section `runtime.kubernetes.admissionServer`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AdmissionServer {
    /// Address to listen on.
    pub address: IpAddr,
    /// Port to listen on.
    pub port: u16,
    /// Additional host names and IP addresses in the certificate of the webhook server and of the server for proxies;
    /// for a control plane outside of the cluster.
    pub hostnames: Vec<String>,
}

/// Section `dpServer`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DpServer {
    /// Address to listen on.
    pub address: IpAddr,
    /// Port to listen on.
    pub port: u16,
    /// URL of this server for proxies; derived from the Service if empty.
    pub url: String,
    /// Authentication of proxies.
    pub auth: DpServerAuth,
}

/// Section `dpServer.auth`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DpServerAuth {
    /// Whether the server also accepts tokens for the API server, besides tokens for the audience of sidecars.
    pub accept_api_server_tokens: bool,
}

/// Section `dnsServer`. Its name is that of Kuma; the control plane has no DNS server of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DnsServer {
    /// Domain of the names. Only `mesh` is supported.
    pub domain: String,
    /// Range of virtual IPs, in CIDR notation.
    #[serde(rename = "CIDR")]
    pub cidr: String,
    /// Whether services have virtual IPs.
    pub service_vip_enabled: bool,
    /// Port of virtual IPs. Only 80 is supported.
    pub service_vip_port: u16,
}

/// Section `diagnostics`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Diagnostics {
    /// Address that the server for health and metrics listens on.
    pub address: IpAddr,
    /// Port that the server for health and metrics listens on.
    pub server_port: u16,
    /// Port of the `/debug` endpoints and the page, always on loopback; 0 disables both.
    pub debug_port: u16,
}

/// Section `bootstrapServer`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BootstrapServer {
    /// Parameters of the bootstrap configuration.
    pub params: BootstrapParams,
}

/// Section `bootstrapServer.params`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BootstrapParams {
    /// Port of Envoy's admin interface; `sidecarContainer.adminPort` of the injector if absent.
    pub admin_port: Option<u16>,
}

/// Section `multizone`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Multizone {
    /// Zone of this control plane.
    pub zone: Zone,
}

/// Section `multizone.zone`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Zone {
    /// Name of the zone, the value of the tag `kuma.io/zone`; empty for no tag.
    pub name: String,
}

/// Section `defaults`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Defaults {
    /// Whether creation of the Mesh `default` is skipped.
    pub skip_mesh_creation: bool,
}

/// Section `tracing`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Tracing {
    /// Export by OpenTelemetry.
    pub open_telemetry: OpenTelemetry,
}

/// Section `tracing.openTelemetry`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OpenTelemetry {
    /// Whether traces are exported.
    pub enabled: bool,
    /// URL of the collector, which accepts OTLP over gRPC.
    pub endpoint: String,
    /// Fraction of traces that are exported, from 0 to 1.
    pub sampling_ratio: f64,
}

/// Paths of maps whose keys are chosen by the user.
const USER_KEYED_MAPS: [&str; 2] = [
    "runtime.kubernetes.injector.exceptions.labels",
    "runtime.kubernetes.injector.sidecarContainer.envVars",
];

impl Config {
    /// Loads a configuration: defaults, then the file, then environment variables. `environment` returns the value of a
    /// variable.
    ///
    /// # Errors
    /// When the configuration is invalid; the error lists all problems.
    pub fn load(
        file: Option<&Path>,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, InvalidConfig> {
        Self::load_from(file.map(ConfigFile::Path), environment)
    }

    /// Loads a configuration like [`Config::load`], from the content of a file. `name` stands for the file in the texts
    /// of problems.
    ///
    /// # Errors
    /// When the configuration is invalid; the error lists all problems.
    pub fn load_content(
        name: &str,
        content: &Value,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, InvalidConfig> {
        Self::load_from(Some(ConfigFile::Content { name, content }), environment)
    }

    fn load_from(
        file: Option<ConfigFile<'_>>,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, InvalidConfig> {
        let variables: Vec<Variable> = settings::variables().collect();
        let rules = OverrideRules {
            variables: &variables,
            user_keyed_maps: &USER_KEYED_MAPS,
        };
        let mut config: Self = load::load(rules, file, environment)?;
        if let Some(port) = config.bootstrap_server.params.admin_port {
            config.runtime.kubernetes.injector.sidecar_container.admin_port = port;
        }
        let problems = config.problems();
        if problems.is_empty() {
            Ok(config)
        } else {
            Err(InvalidConfig { problems })
        }
    }

    /// Returns the problems of values that have the right type but are not allowed.
    fn problems(&self) -> Vec<String> {
        let mut problems = self.runtime.kubernetes.injector.problems();
        let tolerance = self.general.clock_tolerance;
        if tolerance > MAX_CLOCK_TOLERANCE {
            let configured = duration::format(tolerance);
            let limit = duration::format(MAX_CLOCK_TOLERANCE);
            problems.push(format!(
                "general.clockTolerance (KUMA_GENERAL_CLOCK_TOLERANCE): {configured} is more than {limit}; synchronise the \
                 clocks of the nodes"
            ));
        }
        let ratio = self.tracing.open_telemetry.sampling_ratio;
        if !(0.0..=1.0).contains(&ratio) {
            problems.push(format!(
                "tracing.openTelemetry.samplingRatio (KUMA_TRACING_OPENTELEMETRY_SAMPLING_RATIO): {ratio} is not \
                 between 0 and 1"
            ));
        }
        problems.extend(self.dns_server.problems());
        problems
    }

    /// Returns the range of virtual IPs; `None` if services have no virtual IPs.
    pub fn virtual_ip_range(&self) -> Option<VirtualIpRange> {
        let settings = &self.dns_server;
        settings
            .service_vip_enabled
            .then(|| settings.cidr.parse().unwrap_or_default())
    }

    /// Returns the settings of the injector.
    pub fn injector(&self) -> &kermode_inject::Settings {
        &self.runtime.kubernetes.injector
    }

    /// Returns the namespace of the control plane.
    pub fn system_namespace(&self) -> &str {
        &self.store.kubernetes.system_namespace
    }

    /// Returns the name of this replica in the Lease and in Events.
    pub fn instance_name(&self) -> &str {
        if self.instance.is_empty() {
            "kuma-cp"
        } else {
            &self.instance
        }
    }

    /// Returns whether this replica runs in a Pod of the cluster, and so is an endpoint of the control plane's Service.
    pub fn runs_in_pod(&self) -> bool {
        !self.instance.is_empty()
    }

    /// Returns the URL that proxies connect to.
    pub fn control_plane_url(&self) -> String {
        if !self.dp_server.url.is_empty() {
            return self.dp_server.url.clone();
        }
        let service = &self.runtime.kubernetes.control_plane_service_name;
        let (namespace, port) = (self.system_namespace(), self.dp_server.port);
        format!("https://{service}.{namespace}:{port}")
    }

    /// Returns the host names and IP addresses in the certificate of the webhook server and of the server for proxies.
    pub fn serving_names(&self) -> Vec<String> {
        let service = &self.runtime.kubernetes.control_plane_service_name;
        let namespace = self.system_namespace();
        let mut names = vec![
            service.clone(),
            format!("{service}.{namespace}"),
            format!("{service}.{namespace}.svc"),
            format!("{service}.{namespace}.svc.cluster.local"),
            "localhost".to_owned(),
        ];
        names.extend(self.runtime.kubernetes.admission_server.hostnames.iter().cloned());
        names
    }
}

// === defaults ===

/// Unspecified address: the server listens on all IPv4 addresses.
const ALL_IPV4_ADDRESSES: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

impl Default for General {
    fn default() -> Self {
        Self {
            clock_tolerance: DEFAULT_CLOCK_TOLERANCE,
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self {
            level: "info".to_owned(),
            format: LogFormat::default(),
        }
    }
}

impl Default for StoreKubernetes {
    fn default() -> Self {
        Self {
            system_namespace: "kong-mesh-system".to_owned(),
        }
    }
}

impl Default for Kubernetes {
    fn default() -> Self {
        Self {
            control_plane_service_name: "kuma-control-plane".to_owned(),
            admission_server: AdmissionServer::default(),
            injector: kermode_inject::Settings::default(),
        }
    }
}

impl Default for AdmissionServer {
    fn default() -> Self {
        Self {
            address: ALL_IPV4_ADDRESSES,
            port: 5443,
            hostnames: Vec::new(),
        }
    }
}

impl Default for DpServer {
    fn default() -> Self {
        Self {
            address: ALL_IPV4_ADDRESSES,
            port: 5678,
            url: String::new(),
            auth: DpServerAuth::default(),
        }
    }
}

impl DnsServer {
    /// Returns the problems of values that are not allowed.
    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if let Err(error) = self.cidr.parse::<VirtualIpRange>() {
            problems.push(format!("dnsServer.CIDR (KUMA_DNS_SERVER_CIDR): {error}"));
        }
        if self.domain != MESH_DOMAIN {
            let domain = &self.domain;
            problems.push(format!(
                "dnsServer.domain (KUMA_DNS_SERVER_DOMAIN): {domain:?} is not supported; the domain is always {MESH_DOMAIN:?}"
            ));
        }
        if self.service_vip_port != VIRTUAL_IP_PORT {
            let port = self.service_vip_port;
            problems.push(format!(
                "dnsServer.serviceVipPort (KUMA_DNS_SERVER_SERVICE_VIP_PORT): {port} is not supported; the port is always \
                 {VIRTUAL_IP_PORT}"
            ));
        }
        problems
    }
}

impl Default for DnsServer {
    fn default() -> Self {
        Self {
            domain: MESH_DOMAIN.to_owned(),
            cidr: DEFAULT_VIRTUAL_IP_RANGE.to_owned(),
            service_vip_enabled: true,
            service_vip_port: VIRTUAL_IP_PORT,
        }
    }
}

impl Default for OpenTelemetry {
    fn default() -> Self {
        Self {
            enabled: false,
            endpoint: "http://localhost:4317".to_owned(),
            sampling_ratio: 1.0,
        }
    }
}

impl Default for Diagnostics {
    fn default() -> Self {
        Self {
            address: ALL_IPV4_ADDRESSES,
            server_port: 5680,
            debug_port: 5684,
        }
    }
}
