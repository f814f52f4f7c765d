//! Flags for the configuration of the control plane, shared by `inject` and `validate`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use kermode_config::Config;
use kermode_model::KubernetesVersion;

/// Flags for the configuration of the control plane.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct ConfigArgs {
    /// Configuration file of the control plane. Without it, the control plane's defaults apply.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Version of the API server, which supports native sidecars from 1.29. Without this flag, the API server is
    /// assumed to support them. With Nodes in the input, the sidecar mode `auto` uses the version of their oldest
    /// kubelet instead of the API server's version. The mode `native` requires that the API server or the oldest
    /// kubelet supports native sidecars.
    #[arg(long, value_name = "MAJOR.MINOR")]
    kubernetes_version: Option<String>,
}

/// Loads the configuration. Ignores environment variables: this process does not have the environment of the control
/// plane.
pub(crate) fn load(args: &ConfigArgs) -> Result<Config> {
    let mut config = Config::load(args.config.as_deref(), |_| None)?;
    config.runtime.kubernetes.injector.native_sidecars_supported = match &args.kubernetes_version {
        Some(version) => supports_native_sidecars(version)?,
        None => true,
    };
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

/// Whether an API server of this version supports native sidecars.
fn supports_native_sidecars(version: &str) -> Result<bool> {
    let parsed = KubernetesVersion::parse(version);
    let parsed = parsed.with_context(|| format!("--kubernetes-version {version:?}: write it as 1.34"))?;
    Ok(parsed.supports_native_sidecars())
}
