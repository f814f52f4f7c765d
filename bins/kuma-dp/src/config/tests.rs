//! Tests of accepted and rejected command lines of `kuma-dp run`.

use clap::Parser;
use kermode_identity::ServingAuthority;

use super::*;
use crate::cli::{self, Cli};

/// Parses a complete command line of `kuma-dp run`. An argument in `changes` is added, or replaces the argument with
/// the same flag.
fn mk_args(changes: &[&str]) -> RunArgs {
    let ca = ServingAuthority::generate(std::time::SystemTime::now())
        .unwrap()
        .certificate_pem();
    let mut command_line = vec![
        "kuma-dp".to_owned(),
        "run".to_owned(),
        "--cp-address=https://kuma-control-plane.kong-mesh-system:5678".to_owned(),
        format!("--ca-cert={ca}"),
        "--name=web-0.demo".to_owned(),
        "--dataplane-token-file=/var/run/token".to_owned(),
        "--dns-enabled=true".to_owned(),
    ];
    let flag = |argument: &str| argument.split('=').next().map(str::to_owned);
    command_line.retain(|argument| !changes.iter().any(|change| flag(change) == flag(argument)));
    command_line.extend(changes.iter().map(ToString::to_string));
    match Cli::parse_from(command_line).command {
        cli::Command::Run(args) => *args,
        other => panic!("expected the subcommand run, got {other:?}"),
    }
}

#[test]
fn arguments_of_the_injector_are_accepted() {
    let config = mk_args(&["--log-level=info", "--concurrency=2", "--drain-time=1m30s"])
        .into_config()
        .unwrap();
    assert_eq!(config.control_plane.host, "kuma-control-plane.kong-mesh-system");
    assert_eq!(config.control_plane.port, 5678);
    assert_eq!(config.proxy, ObjectKey::new("demo", "web-0"));
    assert_eq!(config.mesh.as_str(), "default");
    assert_eq!(config.envoy.concurrency, NonZeroU32::new(2));
    assert_eq!(config.envoy.drain_time, Duration::from_secs(90));
    assert_eq!(config.envoy.log_level, "info");
    assert_eq!(config.envoy.admin_port.get(), 9901);
    let dns = config.dns.unwrap();
    assert_eq!((dns.port.get(), dns.metrics_port.get()), (15053, 19153));
    assert!(dns.is_cache_enabled);
    assert!(!config.shutdown.is_native_sidecar);
    assert_eq!(config.shutdown.drain_mode, DrainMode::Wait);
    let arguments = ["--drain-mode=acknowledged", "--min-drain-time=7s"];
    let shutdown = mk_args(&arguments).into_config().unwrap().shutdown;
    assert_eq!(shutdown.drain_mode, DrainMode::Acknowledged);
    assert_eq!(shutdown.min_drain_time, Duration::from_secs(7));
    assert_eq!(shutdown.grace_period, None);
    let arguments = ["--native-sidecar=true", "--termination-grace-period=30s"];
    let shutdown = mk_args(&arguments).into_config().unwrap().shutdown;
    assert!(shutdown.is_native_sidecar);
    assert_eq!(shutdown.grace_period, Some(Duration::from_secs(30)));
}

#[test]
fn all_errors_are_reported_at_once_each_with_its_flag_and_variable() {
    let args = mk_args(&[
        "--cp-address=http://cp:5678",
        "--ca-cert=",
        "--dataplane-token-file=",
        "--binary-path=",
        "--resolv-conf=",
        "--name=web",
        "--mesh=",
        "--native-sidecar=maybe",
        "--drain-mode=maybe",
        "--termination-grace-period=maybe",
        "--dns-port=0",
        "--dns-cache-enabled=maybe",
        "--dns-prometheus-port=0",
        "--drain-time=0s",
        "--admin-port=0",
        "--concurrency=two",
        "--log-level=loud",
        "--envoy-log-level=loud",
        "--dns-enabled=maybe",
    ]);
    let text = args.into_config().unwrap_err().to_string();
    for expected in [
        "--cp-address (KUMA_CONTROL_PLANE_URL): `http://cp:5678` is not",
        "--ca-cert (KUMA_CONTROL_PLANE_CA_CERT): it is not set",
        "--dataplane-token-file (KUMA_DATAPLANE_RUNTIME_TOKEN_PATH): it is not set",
        "--binary-path (KUMA_DATAPLANE_RUNTIME_BINARY_PATH): it is not set",
        "--resolv-conf (KUMA_DNS_RESOLV_CONF): it is not set",
        "--name (KUMA_DATAPLANE_NAME): `web`",
        "--mesh (KUMA_DATAPLANE_MESH): it is not set",
        "--drain-time (KUMA_DATAPLANE_DRAIN_TIME): it must be more than zero",
        "--native-sidecar (KUMA_DATAPLANE_NATIVE_SIDECAR): `maybe`",
        "--termination-grace-period (KUMA_DATAPLANE_TERMINATION_GRACE_PERIOD): \"maybe\"",
        "--admin-port (KUMA_DATAPLANE_ADMIN_PORT): `0`",
        "--concurrency (KUMA_DATAPLANE_RUNTIME_CONCURRENCY): `two`",
        "--log-level (KUMA_DATAPLANE_RUNTIME_LOG_LEVEL): `loud`",
        "--envoy-log-level (KUMA_DATAPLANE_RUNTIME_ENVOY_LOG_LEVEL): `loud`",
        "--dns-enabled (KUMA_DNS_ENABLED): `maybe`",
        "--dns-port (KUMA_DNS_CORE_DNS_PORT): `0`",
        "--dns-cache-enabled (KUMA_DNS_CACHE_ENABLED): `maybe`",
        "--dns-prometheus-port (KUMA_DNS_PROMETHEUS_PORT): `0`",
    ] {
        assert!(text.contains(expected), "{expected} not in: {text}");
    }
    assert!(!text.contains('\n'));
}

#[test]
fn file_of_roots_is_beside_the_token_by_default_and_can_be_turned_off() {
    let file = |changes: &[&str]| mk_args(changes).into_config().unwrap().control_plane.ca_file;
    let default = "/var/run/secrets/kubernetes.io/serviceaccount/control-plane-ca.crt";
    assert_eq!(file(&[]), Some(default.into()));
    assert_eq!(file(&["--ca-cert-file=/run/ca.crt"]), Some("/run/ca.crt".into()));
    assert_eq!(file(&["--ca-cert-file="]), None);
}

#[test]
fn dns_and_its_cache_can_be_turned_off() {
    let dns = |change: &str| mk_args(&[change]).into_config().unwrap().dns;
    assert!(dns("--dns-enabled=false").is_none());
    assert!(!dns("--dns-cache-enabled=false").unwrap().is_cache_enabled);
}

#[test]
fn concurrency_of_zero_selects_the_default_of_envoy() {
    assert_eq!(
        mk_args(&["--concurrency=0"])
            .into_config()
            .unwrap()
            .envoy
            .concurrency,
        None
    );
}

#[test]
fn empty_directory_of_the_socket_selects_the_temporary_directory() {
    assert_eq!(
        mk_args(&["--socket-dir="]).into_config().unwrap().socket_dir,
        std::env::temp_dir()
    );
}

#[test]
fn ipv6_address_of_the_control_plane_loses_its_brackets() {
    let config = mk_args(&["--cp-address=https://[fd00::1]:5678"])
        .into_config()
        .unwrap();
    assert_eq!(config.control_plane.host, "fd00::1");
}

#[test]
fn log_level_of_envoy_defaults_to_that_of_the_agent() {
    let level = |changes: &[&str]| mk_args(changes).into_config().unwrap().envoy.log_level;
    assert_eq!(level(&["--log-level=warn"]), "warning");
    assert_eq!(
        level(&["--log-level=warn", "--envoy-log-level=critical"]),
        "critical"
    );
}
