//! Names of injected containers and volumes, and the names, paths and ports that they refer to.

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
/// Volume of the roots of the control plane. A sidecar has it if an annotation names the volume of the token;
/// otherwise, the roots are in [`TOKEN_VOLUME`].
pub(crate) const CA_VOLUME: &str = "kuma-sidecar-ca";
/// Mount path of [`CA_VOLUME`].
pub(crate) const CA_DIRECTORY: &str = "/var/run/secrets/kuma.io/control-plane-ca";
/// File of the roots of the control plane. `kuma-dp` expects it in [`TOKEN_DIRECTORY`] by default. In this directory,
/// the usual name `ca.crt` belongs to the CA of the API server.
pub(crate) const CA_FILE: &str = "control-plane-ca.crt";
/// Path of the readiness check on Envoy's admin port.
pub(crate) const READY_PATH: &str = "/ready";
/// Path of the program `kuma-init` in its image.
pub(crate) const INIT_PROGRAM: &str = "/usr/bin/kuma-init";
/// Default port of the metrics of the sidecar's DNS server.
pub(crate) const DEFAULT_DNS_METRICS_PORT: u16 = 19153;
/// Environment variable of the sidecar with this port.
pub(crate) const DNS_METRICS_PORT_VARIABLE: &str = "KUMA_DNS_PROMETHEUS_PORT";
