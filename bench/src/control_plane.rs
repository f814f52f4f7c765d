//! `kuma-cp` as a process beside an API server. The manifests of `kumactl install control-plane` are applied without
//! the Deployment of the control plane.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cluster::{ApiServer, run};
use crate::config::Config;
use crate::process::{Process, bound_command};

/// Time within which `/ready` must succeed.
const START_TIMEOUT: Duration = Duration::from_mins(1);
/// Time from SIGTERM to SIGKILL.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
/// Namespace of the control plane.
const SYSTEM_NAMESPACE: &str = "kong-mesh-system";

/// A running control plane. Dropping it ends the process.
#[derive(Debug)]
pub struct ControlPlane {
    child: Child,
    /// Address of the webhooks.
    pub webhook_address: SocketAddr,
    /// Address of the server for proxies: ADS and certificates.
    pub dp_server_address: SocketAddr,
    /// Address of `/ready` and `/metrics`.
    pub diagnostics_address: SocketAddr,
    /// CA of the serving certificates, PEM.
    pub ca_pem: String,
}

impl ControlPlane {
    /// Applies the manifests, starts the process and waits until it is ready. `environment` holds additional variables.
    ///
    /// # Errors
    /// When a step fails; the log is `target/bench/kuma-cp.log`.
    pub fn start(api_server: &ApiServer, config: &Config, environment: &[(&str, &str)]) -> Result<Self> {
        let host = api_server.addresses.host.as_str();
        let webhook_address = unused_address(host)?;
        let dp_server_address = unused_address(host)?;
        let diagnostics_address = unused_address(host)?;
        install(api_server, config, webhook_address)?;
        let log = File::create(config.checkout.target.join("bench/kuma-cp.log"))?;
        let mut command = bound_command(config.checkout.release_binary("kuma-cp"));
        command
            .arg("run")
            .env("KUBECONFIG", api_server.kubeconfig())
            .env("KUMA_RUNTIME_KUBERNETES_ADMISSION_SERVER_ADDRESS", host)
            .env(
                "KUMA_RUNTIME_KUBERNETES_ADMISSION_SERVER_PORT",
                webhook_address.port().to_string(),
            )
            .env("KUMA_RUNTIME_KUBERNETES_ADMISSION_SERVER_HOSTNAMES", host)
            .env("KUMA_DP_SERVER_ADDRESS", host)
            .env("KUMA_DP_SERVER_PORT", dp_server_address.port().to_string())
            .env("KUMA_DP_SERVER_URL", format!("https://{dp_server_address}"))
            .env("KUMA_DIAGNOSTICS_ADDRESS", host)
            .env(
                "KUMA_DIAGNOSTICS_SERVER_PORT",
                diagnostics_address.port().to_string(),
            )
            .env("KUMA_DIAGNOSTICS_DEBUG_PORT", "0")
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = command.spawn().context("kuma-cp cannot be started")?;
        let mut started = Self {
            child,
            webhook_address,
            dp_server_address,
            diagnostics_address,
            ca_pem: String::new(),
        };
        started.wait_until_ready()?;
        // The leader creates the default Mesh, so its existence shows that the Lease is held.
        api_server.kubectl(&["wait", "--for=create", "--timeout=60s", "meshes.kuma.io/default"])?;
        let secret = [
            "get",
            "secret",
            "--namespace",
            SYSTEM_NAMESPACE,
            "kuma-control-plane-ca",
        ];
        let data = [r"--output=go-template={{index .data `ca.crt` | base64decode}}"];
        started.ca_pem = api_server.kubectl(&[&secret[..], &data[..]].concat())?;
        Ok(started)
    }

    /// Returns the process, for its CPU time and memory.
    ///
    /// # Errors
    /// When the length of a clock tick is unknown.
    pub fn process(&self) -> Result<Process> {
        Process::new(self.child.id())
    }

    /// Returns the value of a metric without labels; 0 when the metric is missing.
    ///
    /// # Errors
    /// When `/metrics` cannot be read.
    pub fn metric(&self, name: &str) -> Result<f64> {
        let mut command = Command::new("curl");
        command.args(["--silent", "--fail"]);
        command.arg(format!("http://{}/metrics", self.diagnostics_address));
        let text = run(command)?;
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(value.map_or(Ok(0.0), str::parse)?)
    }

    /// Waits until `/ready` succeeds.
    fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        while !self.is_ready() {
            if let Some(status) = self.child.try_wait()? {
                bail!("kuma-cp ended: {status}; see target/bench/kuma-cp.log");
            }
            if Instant::now() > deadline {
                bail!("kuma-cp is not ready after {START_TIMEOUT:?}; see target/bench/kuma-cp.log");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn is_ready(&self) -> bool {
        let mut command = Command::new("curl");
        command.args(["--silent", "--fail", "--output", "/dev/null"]);
        command.arg(format!("http://{}/ready", self.diagnostics_address));
        command.status().is_ok_and(|status| status.success())
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        let sigterm = i32::try_from(self.child.id()).map(|pid| kill(Pid::from_raw(pid), Signal::SIGTERM));
        let deadline = Instant::now() + STOP_TIMEOUT;
        while sigterm.is_ok() && Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        // A process that ignores SIGTERM must not outlive the benchmark.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Applies the manifests of an installation whose webhooks listen on `webhook_address`.
fn install(api_server: &ApiServer, config: &Config, webhook_address: SocketAddr) -> Result<()> {
    let mut command = Command::new(config.checkout.release_binary("kumactl"));
    command.args(["install", "control-plane", "--without-deployment"]);
    command.arg(format!("--webhook-url=https://{webhook_address}"));
    api_server.apply(&run(command)?)
}

/// Returns an address with an unused port.
fn unused_address(host: &str) -> Result<SocketAddr> {
    Ok(TcpListener::bind((host, 0))?.local_addr()?)
}
