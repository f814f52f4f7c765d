//! Validates the options of the command line, which may come from the environment. All errors are reported together.

use std::ffi::OsStr;
use std::num::{NonZeroU16, NonZeroU32};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Arg, Args as _, Command};
use kermode_agent::control_plane::ControlPlaneConfig;
use kermode_agent::envoy::EnvoyConfig;
use kermode_agent::shutdown::{DrainMode, ShutdownConfig};
use kermode_agent::wait::Wait;
use kermode_identity::TrustBundle;
use kermode_model::{MeshName, ObjectKey, duration, notation};
use tracing_subscriber::filter::LevelFilter;

use crate::cli::{RunArgs, WaitArgs};

/// Validated configuration of `run`.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) log_level: LevelFilter,
    pub(crate) control_plane: ControlPlaneConfig,
    pub(crate) mesh: MeshName,
    pub(crate) proxy: ObjectKey,
    pub(crate) envoy: EnvoyConfig,
    pub(crate) shutdown: ShutdownConfig,
    /// DNS server; `None` if `kuma-dp` serves no DNS.
    pub(crate) dns: Option<DnsConfig>,
    /// File with the name servers that DNS queries are forwarded to.
    pub(crate) resolv_conf: PathBuf,
    /// Directory of the unix socket that serves Envoy.
    pub(crate) socket_dir: PathBuf,
}

/// Configuration of the DNS server.
#[derive(Debug)]
pub(crate) struct DnsConfig {
    /// Port on loopback that DNS queries are redirected to.
    pub(crate) port: NonZeroU16,
    pub(crate) is_cache_enabled: bool,
    /// Port on loopback of the metrics.
    pub(crate) metrics_port: NonZeroU16,
}

/// All errors of the configuration.
#[derive(Debug, thiserror::Error)]
#[error("invalid configuration: {}", .0.join("; "))]
pub(crate) struct InvalidOptions(Vec<String>);

impl WaitArgs {
    /// Validates the arguments and converts them.
    pub(crate) fn into_wait(self) -> anyhow::Result<Wait> {
        let parse_duration = |flag: &'static str, text: &str| duration::parse(text).context(flag);
        Ok(Wait {
            url: self
                .url
                .parse()
                .with_context(|| format!("--url: `{}`", self.url))?,
            timeout: parse_duration("--timeout", &self.timeout)?,
            interval: parse_duration("--check-frequency", &self.check_frequency)?,
            request_timeout: parse_duration("--request-timeout", &self.request_timeout)?
                .max(Duration::from_millis(1)),
        })
    }
}

impl RunArgs {
    /// Validates the arguments and converts them.
    pub(crate) fn into_config(self) -> Result<Config, InvalidOptions> {
        let mut errors = Errors::default();
        let shutdown = errors.shutdown(&self);
        let log_level = errors
            .value_of("log_level", parse_log_level(&self.log_level))
            .unwrap_or(LevelFilter::INFO);
        let envoy_log_level = match self.envoy_log_level.filter(|text| !text.is_empty()) {
            Some(text) => errors.value_of("envoy_log_level", parse_envoy_level(&text)),
            None => Some(envoy_level_for(log_level)),
        };
        let address = errors.value_of(
            "control_plane_url",
            required(self.control_plane_url).and_then(|text| https_address(&text)),
        );
        let trust = errors.value_of(
            "control_plane_ca_cert",
            required(self.control_plane_ca_cert)
                .and_then(|pem| TrustBundle::from_pem(&pem).map_err(|error| error.to_string())),
        );
        let token_path = errors.value_of("token_path", required(self.token_path));
        let proxy = errors.value_of("name", required(self.name).and_then(|text| proxy_name(&text)));
        let mesh = errors.value_of("mesh", required(Some(self.mesh)));
        let binary = errors.value_of("binary_path", required(Some(self.binary_path)));
        let admin_port = errors.value_of("admin_port", port(&self.admin_port));
        let concurrency = match self.concurrency.filter(|text| !text.is_empty()) {
            Some(text) => errors.value_of("concurrency", whole_number(&text)),
            None => Some(0),
        };
        let dns = errors.dns([
            &self.dns_enabled,
            &self.dns_port,
            &self.dns_cache_enabled,
            &self.dns_metrics_port,
        ]);
        let resolv_conf = errors.value_of("resolv_conf", required(Some(self.resolv_conf)));

        // The closure returns `None` if an invalid setting left no value.
        let config = (|| {
            let (host, port) = address?;
            Some(Config {
                log_level,
                control_plane: ControlPlaneConfig {
                    host,
                    port,
                    trust: trust?,
                    ca_file: Some(self.control_plane_ca_cert_file).filter(|path| !path.is_empty()),
                    token_path: token_path?,
                },
                mesh: MeshName::new(mesh?),
                proxy: proxy?,
                envoy: EnvoyConfig {
                    binary: binary?,
                    concurrency: NonZeroU32::new(concurrency?),
                    log_level: envoy_log_level?,
                    admin_port: admin_port?,
                    drain_time: shutdown?.drain_time,
                },
                shutdown: shutdown?,
                dns: dns.map(|(is_enabled, dns)| is_enabled.then_some(dns))?,
                resolv_conf: resolv_conf?,
                socket_dir: socket_dir(self.socket_dir),
            })
        })();
        match config {
            Some(config) if errors.0.is_empty() => Ok(config),
            _ => Err(InvalidOptions(errors.0)),
        }
    }
}

/// Returns the directory of the unix socket between Envoy and `kuma-dp run`.
pub(crate) fn socket_dir(configured: Option<PathBuf>) -> PathBuf {
    configured
        .filter(|path| !path.is_empty())
        .unwrap_or_else(std::env::temp_dir)
}

/// Errors of the settings validated so far. Each error starts with the flag and the environment variable of its
/// setting.
#[derive(Default)]
struct Errors(Vec<String>);

impl Errors {
    /// Returns the value of a valid setting. Records the error of an invalid setting. `field` is the name of the
    /// setting's field of [`RunArgs`].
    fn value_of<T>(&mut self, field: &str, result: Result<T, String>) -> Option<T> {
        result
            .map_err(|reason| self.0.push(format!("{}: {reason}", setting_name(field))))
            .ok()
    }

    fn shutdown(&mut self, args: &RunArgs) -> Option<ShutdownConfig> {
        let min_drain_time = duration::parse(&args.min_drain_time).map_err(|error| error.to_string());
        let drain_time = self.value_of("drain_time", positive_duration(&args.drain_time));
        let drain_mode = self.value_of("drain_mode", parse_drain_mode(&args.drain_mode));
        let min_drain_time = self.value_of("min_drain_time", min_drain_time);
        let is_native_sidecar = self.value_of("native_sidecar", boolean(&args.native_sidecar));
        let grace_period = args.termination_grace_period.as_deref();
        let grace_period = grace_period.filter(|text| !text.is_empty()).map(duration::parse);
        let grace_period = grace_period.transpose().map_err(|error| error.to_string());
        let grace_period = self.value_of("termination_grace_period", grace_period);
        Some(ShutdownConfig {
            drain_time: drain_time?,
            drain_mode: drain_mode?,
            min_drain_time: min_drain_time?,
            is_native_sidecar: is_native_sidecar?,
            grace_period: grace_period?,
        })
    }

    /// Returns whether the DNS server is enabled, and its configuration.
    fn dns(
        &mut self,
        [enabled, server_port, cache_enabled, metrics_port]: [&str; 4],
    ) -> Option<(bool, DnsConfig)> {
        let is_enabled = self.value_of("dns_enabled", boolean(enabled));
        let server_port = self.value_of("dns_port", port(server_port));
        let is_cache_enabled = self.value_of("dns_cache_enabled", boolean(cache_enabled));
        let metrics_port = self.value_of("dns_metrics_port", port(metrics_port));
        let config = DnsConfig {
            port: server_port?,
            is_cache_enabled: is_cache_enabled?,
            metrics_port: metrics_port?,
        };
        Some((is_enabled?, config))
    }
}

/// Returns the flag and the environment variable of a setting, for example `--mesh (KUMA_DATAPLANE_MESH)`. `field` is
/// the name of the setting's field of [`RunArgs`].
fn setting_name(field: &str) -> String {
    let command = RunArgs::augment_args(Command::new("run"));
    let argument = command
        .get_arguments()
        .find(|argument| argument.get_id() == field);
    let flag = argument.and_then(Arg::get_long);
    let variable = argument.and_then(Arg::get_env).and_then(OsStr::to_str);
    match (flag, variable) {
        (Some(flag), Some(variable)) => format!("--{flag} ({variable})"),
        (Some(flag), None) => format!("--{flag}"),
        (None, _) => field.to_owned(),
    }
}

trait IsEmpty {
    fn is_empty(&self) -> bool;
}

impl IsEmpty for String {
    fn is_empty(&self) -> bool {
        self.as_str().is_empty()
    }
}

impl IsEmpty for PathBuf {
    fn is_empty(&self) -> bool {
        self.as_os_str().is_empty()
    }
}

/// Rejects an absent and an empty value.
fn required<T: IsEmpty>(value: Option<T>) -> Result<T, String> {
    value
        .filter(|value| !value.is_empty())
        .ok_or_else(|| "it is not set, or it is empty".to_owned())
}

fn whole_number(text: &str) -> Result<u32, String> {
    notation::number(text).map_err(|_| format!("`{text}` is not a whole number between 0 and {}", u32::MAX))
}

fn port(text: &str) -> Result<NonZeroU16, String> {
    notation::number(text).map_err(|_| format!("`{text}` is not a port between 1 and 65535"))
}

/// Parses a boolean. An empty text, such as the value of an empty environment variable, means false.
fn boolean(text: &str) -> Result<bool, String> {
    if text.is_empty() {
        return Ok(false);
    }
    notation::boolean(text).ok_or_else(|| format!("`{text}` is neither true nor false"))
}

fn positive_duration(text: &str) -> Result<Duration, String> {
    let value = duration::parse(text).map_err(|error| error.to_string())?;
    if value.is_zero() {
        Err("it must be more than zero".to_owned())
    } else {
        Ok(value)
    }
}

/// Parses a drain mode. An empty text, such as the value of an empty environment variable, means the default.
fn parse_drain_mode(text: &str) -> Result<DrainMode, String> {
    match text {
        "" | "wait" => Ok(DrainMode::Wait),
        "acknowledged" => Ok(DrainMode::Acknowledged),
        _ => Err(format!("`{text}` is neither wait nor acknowledged")),
    }
}

fn proxy_name(text: &str) -> Result<ObjectKey, String> {
    ObjectKey::from_proxy_name(text).ok_or_else(|| format!("`{text}` is not `<pod>.<namespace>`"))
}

/// Parses `https://<host>:<port>`; the default port is 443. Other schemes are rejected because the token must not be
/// sent in clear text.
fn https_address(text: &str) -> Result<(String, u16), String> {
    let malformed = || format!("`{text}` is not `https://<host>:<port>`");
    let url: http::Uri = text.parse().map_err(|_| malformed())?;
    match (url.scheme_str(), url.host()) {
        (Some("https"), Some(host)) if !host.is_empty() => {
            // The brackets around an IPv6 address belong to the URL, not to the host.
            let host = host.trim_start_matches('[').trim_end_matches(']');
            Ok((host.to_owned(), url.port_u16().unwrap_or(443)))
        }
        _ => Err(malformed()),
    }
}

fn parse_log_level(text: &str) -> Result<LevelFilter, String> {
    let level = if text == "warning" { "warn" } else { text };
    level
        .parse()
        .map_err(|_| format!("`{text}` is none of off, error, warn, info, debug, trace"))
}

/// Log levels that Envoy's command line accepts.
const ENVOY_LEVELS: [&str; 7] = ["trace", "debug", "info", "warning", "error", "critical", "off"];

fn parse_envoy_level(text: &str) -> Result<&'static str, String> {
    let name = if text == "warn" { "warning" } else { text };
    ENVOY_LEVELS
        .into_iter()
        .find(|level| *level == name)
        .ok_or_else(|| format!("`{text}` is none of {}", ENVOY_LEVELS.join(", ")))
}

fn envoy_level_for(level: LevelFilter) -> &'static str {
    match level.into_level() {
        None => "off",
        Some(tracing::Level::ERROR) => "error",
        Some(tracing::Level::WARN) => "warning",
        Some(tracing::Level::INFO) => "info",
        Some(tracing::Level::DEBUG) => "debug",
        Some(tracing::Level::TRACE) => "trace",
    }
}

#[cfg(test)]
mod tests;
