//! Envoy's command line (`docs/reference/sidecar.md#envoy-command-line`). Pure.

use std::ffi::OsString;

use serde_json::Value;

use super::EnvoyConfig;

/// Returns Envoy's arguments. The bootstrap is an argument, not a file: it contains no secrets, so it may be visible in
/// the list of processes.
pub fn arguments(config: &EnvoyConfig, bootstrap: &Value) -> Vec<OsString> {
    // Envoy accepts whole seconds. Rounding up keeps half a second from becoming zero.
    let drain_seconds = config.drain_time.as_millis().div_ceil(1000);
    let mut arguments: Vec<OsString> = vec![
        "--config-yaml".into(),
        bootstrap.to_string().into(),
        "--drain-time-s".into(),
        drain_seconds.to_string().into(),
        "--drain-strategy".into(),
        "immediate".into(),
        "--disable-hot-restart".into(),
        "--log-level".into(),
        config.log_level.into(),
    ];
    match config.concurrency {
        Some(concurrency) => arguments.extend(["--concurrency".into(), concurrency.to_string().into()]),
        None => arguments.push("--cpuset-threads".into()),
    }
    arguments
}

#[cfg(test)]
mod tests {
    use std::num::{NonZeroU16, NonZeroU32};
    use std::time::Duration;

    use super::*;

    fn mk_config(concurrency: u32, drain_time: Duration) -> EnvoyConfig {
        EnvoyConfig {
            binary: "envoy".into(),
            concurrency: NonZeroU32::new(concurrency),
            log_level: "info",
            admin_port: NonZeroU16::MIN,
            drain_time,
        }
    }

    #[test]
    fn command_line_contains_bootstrap_drain_time_log_level_and_concurrency() {
        let bootstrap = serde_json::json!({"node": {"id": "a"}});
        assert_eq!(
            arguments(&mk_config(2, Duration::from_millis(1500)), &bootstrap).join(" ".as_ref()),
            "--config-yaml {\"node\":{\"id\":\"a\"}} --drain-time-s 2 --drain-strategy immediate \
             --disable-hot-restart --log-level info --concurrency 2"
        );
    }

    #[test]
    fn without_concurrency_envoy_counts_usable_cpus() {
        let line = arguments(&mk_config(0, Duration::from_secs(1)), &Value::Null);
        assert_eq!(line.last(), Some(&"--cpuset-threads".into()));
    }
}
