//! Flags for the configuration of the control plane, shared by `inject` and `validate`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use kermode_config::Config;
use kermode_model::KubernetesVersion;

/// Assumed version of the API server. It supports everything that injection uses.
const DEFAULT_VERSION: KubernetesVersion = KubernetesVersion::new(1, 34);

/// Flags for the configuration of the control plane.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct ConfigArgs {
    /// Configuration file of the control plane. Without it, the control plane's defaults apply.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// Version of the API server, which supports native sidecars from 1.29 and sleep hooks from 1.30. Without this flag,
    /// the API server is assumed to support both. With Nodes in the input, the sidecar mode `auto` uses the version of their oldest
    /// kubelet instead of the API server's version. The mode `native` requires that the API server or the oldest
    /// kubelet supports native sidecars.
    #[arg(long, value_name = "MAJOR.MINOR")]
    pub(crate) kubernetes_version: Option<String>,
}

/// Loads the configuration. Ignores environment variables: this process does not have the environment of the control
/// plane.
pub(crate) fn load(args: &ConfigArgs) -> Result<Config> {
    let mut config = Config::load(args.config.as_deref(), |_| None)?;
    let version = match &args.kubernetes_version {
        Some(version) => parse_version(version)?,
        None => DEFAULT_VERSION,
    };
    config
        .runtime
        .kubernetes
        .injector
        .set_api_server_version(Some(version));
    Ok(config)
}

/// Reads the CA certificate with which sidecars verify the control plane: from `file` if given, otherwise from
/// the configured file. Returns an empty text if the configured file cannot be read on this machine.
pub(crate) fn ca_pem(config: &Config, file: Option<&Path>) -> Result<String> {
    if let Some(file) = file {
        let text = std::fs::read_to_string(file);
        return text.with_context(|| format!("--ca-cert: cannot read {}", file.display()));
    }
    let configured = &config.injector().ca_cert_file;
    Ok(std::fs::read_to_string(configured).unwrap_or_default())
}

fn parse_version(text: &str) -> Result<KubernetesVersion> {
    KubernetesVersion::parse(text).with_context(|| format!("--kubernetes-version {text:?}: write it as 1.34"))
}
