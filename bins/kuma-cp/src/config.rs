//! Configuration of the control plane: Kuma's file layout and `KUMA_*` variables (BEHAVIOUR section 7).

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use kermode_runtime::config::{Schema, Variable, load};
use serde::{Deserialize, Serialize};

/// Everything that can be configured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Config {
    /// Name of this replica; the Pod's in a cluster.
    pub(crate) instance: String,
    /// Logging.
    pub(crate) log: Log,
    /// Where the control plane keeps its own objects.
    pub(crate) store: Store,
    /// Kubernetes.
    pub(crate) runtime: Runtime,
    /// The server for proxies: xDS and certificates.
    pub(crate) dp_server: DpServer,
    /// The server for operators: health and metrics.
    pub(crate) diagnostics: Diagnostics,
    /// Bootstrap of proxies.
    pub(crate) bootstrap_server: BootstrapServer,
    /// Zones.
    pub(crate) multizone: Multizone,
    /// Objects made at start.
    pub(crate) defaults: Defaults,
    /// Traces of what the control plane does.
    pub(crate) tracing: Tracing,
}

/// Logging.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Log {
    /// A level, or a filter such as `info,kermode_xds=debug`.
    pub(crate) level: String,
    /// `text` or `json`.
    pub(crate) format: LogFormat,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// One line an event.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Where the control plane keeps its own objects.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Store {
    /// In Kubernetes.
    pub(crate) kubernetes: StoreKubernetes,
}

/// The control plane's namespace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct StoreKubernetes {
    /// Its name.
    pub(crate) system_namespace: String,
}

/// What the control plane runs on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Runtime {
    /// Kubernetes.
    pub(crate) kubernetes: Kubernetes,
}

/// Kubernetes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Kubernetes {
    /// Name of the control plane's Service.
    pub(crate) control_plane_service_name: String,
    /// The webhooks' server.
    pub(crate) admission_server: AdmissionServer,
    /// Injection.
    pub(crate) injector: kermode_inject::Settings,
}

/// The webhooks' server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct AdmissionServer {
    /// Address to listen on.
    pub(crate) address: IpAddr,
    /// Port to listen on.
    pub(crate) port: u16,
    /// Names and IP addresses it is reached by besides those of the Service; needed outside a cluster.
    pub(crate) hostnames: Vec<String>,
}

/// The server for proxies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct DpServer {
    /// Address to listen on.
    pub(crate) address: IpAddr,
    /// Port to listen on.
    pub(crate) port: u16,
    /// URL handed to proxies; derived from the Service unless set.
    pub(crate) url: String,
}

/// The server for operators.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Diagnostics {
    /// Address to listen on.
    pub(crate) address: IpAddr,
    /// Port to listen on.
    pub(crate) server_port: u16,
    /// Port of the `/debug` endpoints, on loopback whatever the address; 0 for none.
    pub(crate) debug_port: u16,
}

/// Bootstrap of proxies.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct BootstrapServer {
    /// Its parameters.
    pub(crate) params: BootstrapParams,
}

/// Parameters of proxies' bootstrap.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct BootstrapParams {
    /// Port of Envoy's admin interface; the injector's default unless set.
    pub(crate) admin_port: Option<u16>,
}

/// Zones.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Multizone {
    /// This zone.
    pub(crate) zone: Zone,
}

/// A zone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Zone {
    /// Its name; empty without zones.
    pub(crate) name: String,
}

/// Objects made at start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Defaults {
    /// Do not make the Mesh `default`.
    pub(crate) skip_mesh_creation: bool,
}

/// Traces of what the control plane does.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Tracing {
    /// By OpenTelemetry.
    pub(crate) open_telemetry: OpenTelemetry,
}

/// Traces by OpenTelemetry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct OpenTelemetry {
    /// Whether any are sent.
    pub(crate) enabled: bool,
    /// URL of the collector (OTLP over gRPC).
    pub(crate) endpoint: String,
    /// The share of traces that are sent, from 0 to 1.
    pub(crate) sampling_ratio: f64,
}

const ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

const VARIABLES: &[Variable] = &[
    ("POD_NAME", "instance"),
    ("KUMA_LOG_LEVEL", "log.level"),
    ("KUMA_LOG_FORMAT", "log.format"),
    (
        "KUMA_STORE_KUBERNETES_SYSTEM_NAMESPACE",
        "store.kubernetes.systemNamespace",
    ),
    (
        "KUMA_RUNTIME_KUBERNETES_CONTROL_PLANE_SERVICE_NAME",
        "runtime.kubernetes.controlPlaneServiceName",
    ),
    (
        "KUMA_RUNTIME_KUBERNETES_ADMISSION_SERVER_ADDRESS",
        "runtime.kubernetes.admissionServer.address",
    ),
    (
        "KUMA_RUNTIME_KUBERNETES_ADMISSION_SERVER_PORT",
        "runtime.kubernetes.admissionServer.port",
    ),
    (
        "KUMA_RUNTIME_KUBERNETES_ADMISSION_SERVER_HOSTNAMES",
        "runtime.kubernetes.admissionServer.hostnames",
    ),
    ("KUMA_DP_SERVER_ADDRESS", "dpServer.address"),
    ("KUMA_DP_SERVER_PORT", "dpServer.port"),
    ("KUMA_DP_SERVER_URL", "dpServer.url"),
    ("KUMA_DIAGNOSTICS_ADDRESS", "diagnostics.address"),
    ("KUMA_DIAGNOSTICS_SERVER_PORT", "diagnostics.serverPort"),
    ("KUMA_DIAGNOSTICS_DEBUG_PORT", "diagnostics.debugPort"),
    ("KUMA_MULTIZONE_ZONE_NAME", "multizone.zone.name"),
    ("KUMA_DEFAULTS_SKIP_MESH_CREATION", "defaults.skipMeshCreation"),
    (
        "KUMA_TRACING_OPENTELEMETRY_ENABLED",
        "tracing.openTelemetry.enabled",
    ),
    (
        "KUMA_TRACING_OPENTELEMETRY_ENDPOINT",
        "tracing.openTelemetry.endpoint",
    ),
    (
        "KUMA_TRACING_OPENTELEMETRY_SAMPLING_RATIO",
        "tracing.openTelemetry.samplingRatio",
    ),
];

const SCHEMA: Schema = Schema {
    variables: &[VARIABLES, kermode_inject::ENVIRONMENT],
    maps: &[
        "runtime.kubernetes.injector.exceptions.labels",
        "runtime.kubernetes.injector.sidecarContainer.envVars",
    ],
};

impl Config {
    /// Reads file and environment.
    ///
    /// # Errors
    /// With all problems at once.
    pub(crate) fn load(file: Option<&Path>) -> anyhow::Result<Self> {
        #[allow(
            clippy::disallowed_methods,
            reason = "the one place where kuma-cp reads its environment"
        )]
        let mut config: Self = load(SCHEMA, file, |name| std::env::var(name).ok())?;
        if let Some(port) = config.bootstrap_server.params.admin_port {
            config.runtime.kubernetes.injector.sidecar_container.admin_port = port;
        }
        let mut problems = config.runtime.kubernetes.injector.problems();
        let ratio = config.tracing.open_telemetry.sampling_ratio;
        if !(0.0..=1.0).contains(&ratio) {
            problems.push(format!(
                "tracing.openTelemetry.samplingRatio (KUMA_TRACING_OPENTELEMETRY_SAMPLING_RATIO): {ratio} is not \
                 between 0 and 1"
            ));
        }
        anyhow::ensure!(problems.is_empty(), "configuration: {}", problems.join("; "));
        Ok(config)
    }

    /// Name of this replica, for the lease and Events.
    pub(crate) fn instance_name(&self) -> &str {
        if self.instance.is_empty() {
            "kuma-cp"
        } else {
            &self.instance
        }
    }

    /// Whether this replica is a Pod behind the Service, rather than a process on somebody's machine.
    pub(crate) fn runs_in_pod(&self) -> bool {
        !self.instance.is_empty()
    }

    /// The URL that proxies are told.
    pub(crate) fn control_plane_url(&self) -> String {
        if self.dp_server.url.is_empty() {
            let service = &self.runtime.kubernetes.control_plane_service_name;
            format!(
                "https://{service}.{}:{}",
                self.store.kubernetes.system_namespace, self.dp_server.port
            )
        } else {
            self.dp_server.url.clone()
        }
    }

    /// The names that the servers' certificate must cover.
    pub(crate) fn serving_names(&self) -> Vec<String> {
        let service = &self.runtime.kubernetes.control_plane_service_name;
        let namespace = &self.store.kubernetes.system_namespace;
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
            address: ANY,
            port: 5443,
            hostnames: Vec::new(),
        }
    }
}

impl Default for DpServer {
    fn default() -> Self {
        Self {
            address: ANY,
            port: 5678,
            url: String::new(),
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
            address: ANY,
            server_port: 5680,
            debug_port: 5684,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variable_names_an_existing_setting() {
        let defaults = serde_json::to_value(Config::default()).expect("serialisable");
        for (variable, path) in SCHEMA.variables.iter().copied().flatten() {
            let found = path.split('.').try_fold(&defaults, |value, key| value.get(key));
            assert!(found.is_some(), "{variable} sets {path}, which does not exist");
        }
    }

    #[test]
    fn the_default_url_is_the_service_in_the_system_namespace() {
        assert_eq!(
            Config::default().control_plane_url(),
            "https://kuma-control-plane.kong-mesh-system:5678"
        );
    }
}
