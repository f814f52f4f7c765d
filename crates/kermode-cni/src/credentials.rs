//! The kubeconfig by which the plugin gets Pods: the API server's address and roots, and the token of the installer's
//! service account. The kubelet renews the token in the installer's Pod, and the installer writes the new token.

use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::problem::Problem;

/// Mode of the kubeconfig: only root reads it.
pub(crate) const MODE: u32 = 0o600;

/// Name of cluster, user and context.
const NAME: &str = "kuma-cni";

/// Returns the kubeconfig with the current token in a folder.
pub(crate) fn kubeconfig(folder: &Path, api_server: &str) -> Result<String, Problem> {
    let read = |name: &str| {
        let path = folder.join(name);
        fs::read(&path).map_err(|source| Problem::Credentials { path, source })
    };
    let token = read("token")?;
    let token = String::from_utf8_lossy(&token);
    let roots = STANDARD.encode(read("ca.crt")?);
    let kubeconfig = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": NAME, "cluster": {"server": api_server, "certificate-authority-data": roots}}],
        "users": [{"name": NAME, "user": {"token": token.trim()}}],
        "contexts": [{"name": NAME, "context": {"cluster": NAME, "user": NAME}}],
        "current-context": NAME,
    });
    Ok(format!("{kubeconfig:#}\n"))
}
