//! Names that injection gives: containers, volumes, paths.

/// The sidecar.
pub(crate) const SIDECAR: &str = "kuma-sidecar";
/// The init container that redirects traffic.
pub(crate) const INIT: &str = "kuma-init";
/// The init container that checks the CNI plugin's redirection.
pub(crate) const VALIDATION: &str = "kuma-validation";
/// Volume for what the sidecar writes.
pub(crate) const TMP_VOLUME: &str = "kuma-sidecar-tmp";
/// Volume with the sidecar's own service-account token.
pub(crate) const TOKEN_VOLUME: &str = "kuma-sidecar-token";
/// Where service-account tokens are mounted.
pub(crate) const TOKEN_DIRECTORY: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// What answers whether Envoy is ready, on its admin port.
pub(crate) const READY_PATH: &str = "/ready";
/// Program of `kuma-init`.
pub(crate) const INIT_PROGRAM: &str = "/usr/bin/kuma-init";
/// Admin port that `kuma-dp` takes when it is told none.
pub(crate) const DEFAULT_ADMIN_PORT: u16 = 9901;
