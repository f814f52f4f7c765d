//! The control plane's configuration file, as far as injection depends on it. Read by the control plane's own loader:
//! unknown keys are errors, all of them told at once.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use kermode_inject::Settings;
use kermode_runtime::config::Schema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Flags that say what the control plane is configured like.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct SettingsArgs {
    /// The control plane's configuration file; without it, the control plane's defaults.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Version of the API server, which decides on native sidecars; by default one that supports them.
    #[arg(long, value_name = "MAJOR.MINOR")]
    kubernetes_version: Option<String>,
}

/// The sections of the file. Those that are none of injection's business are only known to exist.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Config {
    instance: String,
    log: Map<String, Value>,
    store: Store,
    runtime: Runtime,
    dp_server: DpServer,
    diagnostics: Map<String, Value>,
    bootstrap_server: BootstrapServer,
    multizone: Map<String, Value>,
    defaults: Map<String, Value>,
}

/// Sections whose content is the control plane's to check.
const ELSEWHERE: &[&str] = &[
    "log",
    "diagnostics",
    "multizone",
    "defaults",
    "runtime.kubernetes.admissionServer",
    // Maps with keys of the user's own.
    "runtime.kubernetes.injector.exceptions.labels",
    "runtime.kubernetes.injector.sidecarContainer.envVars",
];

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Store {
    kubernetes: StoreKubernetes,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct StoreKubernetes {
    system_namespace: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Runtime {
    kubernetes: Kubernetes,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Kubernetes {
    control_plane_service_name: String,
    admission_server: Map<String, Value>,
    injector: Settings,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct DpServer {
    address: String,
    port: u16,
    url: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct BootstrapServer {
    params: BootstrapParams,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct BootstrapParams {
    admin_port: Option<u16>,
}

/// Reads what the flags name.
pub(crate) fn load(args: &SettingsArgs) -> Result<Config> {
    const SCHEMA: Schema = Schema {
        variables: &[],
        maps: ELSEWHERE,
    };
    // The environment is that of the control plane, not of whoever runs this.
    let mut config: Config = kermode_runtime::config::load(SCHEMA, args.config.as_deref(), |_| None)?;
    let settings = &mut config.runtime.kubernetes.injector;
    if let Some(port) = config.bootstrap_server.params.admin_port {
        settings.sidecar_container.admin_port = port;
    }
    settings.native_sidecars_supported = match &args.kubernetes_version {
        Some(version) => supports_native_sidecars(version)?,
        None => true,
    };
    let problems = settings.problems();
    ensure!(problems.is_empty(), "configuration: {}", problems.join("; "));
    Ok(config)
}

fn supports_native_sidecars(version: &str) -> Result<bool> {
    let numbers = version.trim_start_matches('v').split_once('.');
    let parsed = numbers.and_then(|(major, rest)| {
        let minor = rest.split('.').next().unwrap_or_default();
        Some((major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?))
    });
    match parsed {
        Some(version) => Ok(version >= (1, 29)),
        None => bail!("--kubernetes-version {version:?}: write it as 1.34"),
    }
}

// === impl Config ===

impl Config {
    pub(crate) fn settings(&self) -> &Settings {
        &self.runtime.kubernetes.injector
    }

    pub(crate) fn system_namespace(&self) -> &str {
        &self.store.kubernetes.system_namespace
    }

    /// The URL that proxies are told.
    pub(crate) fn control_plane_url(&self) -> String {
        if !self.dp_server.url.is_empty() {
            return self.dp_server.url.clone();
        }
        let service = &self.runtime.kubernetes.control_plane_service_name;
        let (namespace, port) = (self.system_namespace(), self.dp_server.port);
        format!("https://{service}.{namespace}:{port}")
    }

    /// The CA that proxies are told: of this file, else of the configured one, if it is here too.
    pub(crate) fn ca_pem(&self, file: Option<&Path>) -> Result<String> {
        if let Some(file) = file {
            let text = std::fs::read_to_string(file);
            return text.with_context(|| format!("--ca-cert: cannot read {}", file.display()));
        }
        let configured = &self.settings().ca_cert_file;
        Ok(std::fs::read_to_string(configured).unwrap_or_default())
    }
}

// === defaults, those of the control plane ===

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
            admission_server: Map::new(),
            injector: Settings::default(),
        }
    }
}

impl Default for DpServer {
    fn default() -> Self {
        Self {
            address: String::new(),
            port: 5678,
            url: String::new(),
        }
    }
}
