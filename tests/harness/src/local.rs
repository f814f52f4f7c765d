//! Access to a local cluster, which the cluster tool (`cluster/`) started.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use kermode_checkout::Checkout;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde::de::DeserializeOwned;

use crate::kubectl::Kubectl;

/// Returns kubectl of a local cluster.
pub fn kubectl(checkout: &Checkout, cluster: &str) -> Kubectl {
    let folder = checkout.cluster_folder(cluster);
    Kubectl::new(folder.join("bin/kubectl"), folder.join("kubeconfig"))
}

/// Returns the references of the images of this build, by short name, such as `kuma-dp`.
///
/// # Errors
/// The images have not been built.
pub fn images(checkout: &Checkout) -> Result<BTreeMap<String, String>> {
    read_json(&checkout.target.join("images/images.json"))
}

/// Returns an API client for the current context of a kubeconfig.
///
/// # Errors
/// The kubeconfig cannot be read, or is not valid.
pub async fn client(kubeconfig: &Path) -> Result<kube::Client> {
    Ok(kube::Client::try_from(config(kubeconfig).await?)?)
}

/// Returns the configuration of an API client for the current context of a kubeconfig.
///
/// # Errors
/// The kubeconfig cannot be read, or is not valid.
pub async fn config(kubeconfig: &Path) -> Result<kube::Config> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    Ok(kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?)
}

/// Reads a JSON file.
///
/// # Errors
/// The file cannot be read, or has other fields than expected. The error names the file.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("cannot decode {}", path.display()))
}
