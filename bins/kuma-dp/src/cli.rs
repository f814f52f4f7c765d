//! Command line of `kuma-dp`, as the sidecar container and its lifecycle hooks use it.
//!
//! Every option of `run` has an environment variable (`docs/reference/sidecar.md#environment`). Most values stay text
//! here, so that `config.rs` can report all invalid values together.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};

/// The sidecar agent of Kermode: runs Envoy beside a workload and connects it to the control plane.
#[derive(Debug, Parser)]
#[command(name = "kuma-dp", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run Envoy and the components that serve it. Ends after the drain that a signal starts, or when Envoy ends and is
    /// not restarted.
    Run(Box<RunArgs>),
    /// Start the drain of a running `kuma-dp run`, which keeps serving until it receives SIGTERM. The preStop hook of a
    /// native sidecar runs this command when the Pod begins to terminate.
    Drain(DrainArgs),
    /// Wait until a URL responds with a success status, for hooks and probes of images without a shell.
    Wait(WaitArgs),
    /// Replace this process by Envoy. The kernel kills Envoy when the parent process, `kuma-dp run`, ends.
    #[command(hide = true)]
    ExecEnvoy(ExecArgs),
}

/// Parser of a path that accepts an empty value. Clap's parser ends the program at an empty variable, before
/// `config.rs` can report the variable together with all other invalid values.
fn path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

#[derive(Debug, Default, Args)]
pub(crate) struct RunArgs {
    /// Log level of kuma-dp: error, warn, info, debug, trace or off.
    #[arg(long, env = "KUMA_DATAPLANE_RUNTIME_LOG_LEVEL", default_value = "info")]
    pub(crate) log_level: String,
    /// Number of Envoy's worker threads; one per usable CPU when absent or 0.
    #[arg(long, env = "KUMA_DATAPLANE_RUNTIME_CONCURRENCY")]
    pub(crate) concurrency: Option<String>,
    /// URL of the control plane, `https://<host>:<port>`.
    #[arg(long = "cp-address", env = "KUMA_CONTROL_PLANE_URL")]
    pub(crate) control_plane_url: Option<String>,
    /// CA certificates (PEM text) that the control plane's certificate is verified with.
    #[arg(long = "ca-cert", env = "KUMA_CONTROL_PLANE_CA_CERT", hide_env_values = true)]
    pub(crate) control_plane_ca_cert: Option<String>,
    /// File with CA certificates (PEM) that take the place of --ca-cert; read for every connection. Until the file
    /// exists, --ca-cert is used.
    #[arg(
        long = "ca-cert-file",
        env = "KUMA_CONTROL_PLANE_CA_CERT_FILE",
        default_value = "/var/run/secrets/kubernetes.io/serviceaccount/control-plane-ca.crt",
        value_parser = path()
    )]
    pub(crate) control_plane_ca_cert_file: PathBuf,
    /// Mesh of the Dataplane.
    #[arg(long, env = "KUMA_DATAPLANE_MESH", default_value = "default")]
    pub(crate) mesh: String,
    /// Name of the Dataplane, `<pod>.<namespace>`.
    #[arg(long, env = "KUMA_DATAPLANE_NAME")]
    pub(crate) name: Option<String>,
    /// Time to keep serving after the first SIGTERM or SIGINT, in Go's notation (30s, 1m30s).
    #[arg(long, env = "KUMA_DATAPLANE_DRAIN_TIME", default_value = "30s")]
    pub(crate) drain_time: String,
    /// Condition that ends the drain of a classic sidecar: wait (the end of the drain time), or acknowledged (no proxy
    /// sends requests to this endpoint, no connection is open and --min-drain-time has passed; at the latest, the end of
    /// the drain time). A native sidecar ignores the mode.
    #[arg(long, env = "KUMA_DATAPLANE_DRAIN_MODE", default_value = "wait")]
    pub(crate) drain_mode: String,
    /// Minimum duration of a drain with the mode acknowledged, in Go's notation. The application may still run that long.
    #[arg(long, env = "KUMA_DATAPLANE_MIN_DRAIN_TIME", default_value = "0s")]
    pub(crate) min_drain_time: String,
    /// Whether this container is a native sidecar. A native sidecar is signalled after the workload has ended, so after the
    /// signal it waits only for requests and TCP connections in progress.
    #[arg(long, env = "KUMA_DATAPLANE_NATIVE_SIDECAR", default_value = "false")]
    pub(crate) native_sidecar: String,
    /// Termination grace period of the Pod, in Go's notation. The drain of a native sidecar ends at least 5 s before the end
    /// of this period, which begins with `kuma-dp drain`.
    #[arg(long, env = "KUMA_DATAPLANE_TERMINATION_GRACE_PERIOD")]
    pub(crate) termination_grace_period: Option<String>,
    /// File with the token that authenticates this proxy; read for every call to the control plane.
    #[arg(
        long = "dataplane-token-file",
        env = "KUMA_DATAPLANE_RUNTIME_TOKEN_PATH",
        value_parser = path()
    )]
    pub(crate) token_path: Option<PathBuf>,
    /// Path of the Envoy program.
    #[arg(
        long,
        env = "KUMA_DATAPLANE_RUNTIME_BINARY_PATH",
        default_value = "/usr/bin/envoy",
        value_parser = path()
    )]
    pub(crate) binary_path: PathBuf,
    /// Log level of Envoy; defaults to that of kuma-dp.
    #[arg(long, env = "KUMA_DATAPLANE_RUNTIME_ENVOY_LOG_LEVEL")]
    pub(crate) envoy_log_level: Option<String>,
    /// Port of Envoy's admin interface on 127.0.0.1.
    #[arg(long, env = "KUMA_DATAPLANE_ADMIN_PORT", default_value = "9901")]
    pub(crate) admin_port: String,
    /// Writable directory for the socket between Envoy and kuma-dp; defaults to the temporary directory.
    #[arg(long, env = "KUMA_DATAPLANE_RUNTIME_SOCKET_DIR", value_parser = path())]
    pub(crate) socket_dir: Option<PathBuf>,
    /// Whether to serve the DNS queries that the Pod's rules redirect.
    #[arg(long, env = "KUMA_DNS_ENABLED", default_value = "false")]
    pub(crate) dns_enabled: String,
    /// Port on 127.0.0.1 (and ::1) that DNS queries are redirected to.
    #[arg(long, env = "KUMA_DNS_CORE_DNS_PORT", default_value = "15053")]
    pub(crate) dns_port: String,
    /// Whether to cache the responses of the name servers for their TTLs.
    #[arg(long, env = "KUMA_DNS_CACHE_ENABLED", default_value = "true")]
    pub(crate) dns_cache_enabled: String,
    /// Port on 127.0.0.1 of the metrics of the DNS server.
    #[arg(
        long = "dns-prometheus-port",
        env = "KUMA_DNS_PROMETHEUS_PORT",
        default_value = "19153"
    )]
    pub(crate) dns_metrics_port: String,
    /// File with the name servers that queries are forwarded to.
    #[arg(
        long,
        env = "KUMA_DNS_RESOLV_CONF",
        default_value = "/etc/resolv.conf",
        value_parser = path()
    )]
    pub(crate) resolv_conf: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct DrainArgs {
    /// Directory of the socket of kuma-dp run; defaults to the temporary directory.
    #[arg(long, env = "KUMA_DATAPLANE_RUNTIME_SOCKET_DIR", value_parser = path())]
    pub(crate) socket_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct WaitArgs {
    /// URL to request, `http://<IP or localhost>:<port>/<path>`.
    #[arg(long, default_value = "http://localhost:9901/ready")]
    pub(crate) url: String,
    /// Time after which the wait fails, in Go's notation.
    #[arg(long, default_value = "60s")]
    pub(crate) timeout: String,
    /// Pause between two requests, in Go's notation.
    #[arg(long, default_value = "250ms")]
    pub(crate) check_frequency: String,
    /// Timeout of one request, in Go's notation.
    #[arg(long, default_value = "500ms")]
    pub(crate) request_timeout: String,
}

#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    /// Process ID of `kuma-dp run`. Envoy is not executed if the parent is another process, because `kuma-dp run` has
    /// ended then.
    #[arg(long)]
    pub(crate) parent: i32,
    /// Path and arguments of Envoy.
    #[arg(last = true, required = true)]
    pub(crate) command: Vec<OsString>,
}
