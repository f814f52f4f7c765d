//! Names of injected containers and volumes, and paths and ports that they use.

/// Container of the sidecar.
pub(crate) const SIDECAR: &str = "kuma-sidecar";
/// Init container that redirects traffic.
pub(crate) const INIT: &str = "kuma-init";
/// Init container that checks the CNI plugin's redirection.
pub(crate) const VALIDATION: &str = "kuma-validation";
/// Volume for the sidecar's writable directory `/tmp`.
pub(crate) const TMP_VOLUME: &str = "kuma-sidecar-tmp";
/// Volume of the sidecar's own service account token.
pub(crate) const TOKEN_VOLUME: &str = "kuma-sidecar-token";
/// Mount path of service account tokens.
pub(crate) const TOKEN_DIRECTORY: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Path of the readiness check on Envoy's admin port.
pub(crate) const READY_PATH: &str = "/ready";
/// Path of the program `kuma-init` in its image.
pub(crate) const INIT_PROGRAM: &str = "/usr/bin/kuma-init";
/// Admin port that `kuma-dp` uses by default.
pub(crate) const DEFAULT_ADMIN_PORT: u16 = 9901;
