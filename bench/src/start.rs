//! Starts of one real sidecar, `kuma-dp` with Envoy, beside a control plane whose mesh has many services. The milestones
//! of a start are read from the logs of both programs, at the time at which a line arrives.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use crate::cluster::{ApiServer, run};
use crate::config::Config;
use crate::control_plane::ControlPlane;
use crate::dataplane::watch::DataplaneWatch;
use crate::mesh;
use crate::process::Process;
use crate::sidecars::objects::{BenchObjects, Sidecar};

/// URL of Envoy's readiness in the network of the sidecar.
const READY_URL: &str = "http://127.0.0.1:9901/ready";
/// Interval between two checks of the readiness: the resolution of [`Milestone::Ready`].
const READY_INTERVAL: &str = "2ms";
/// Time limit of a start.
const TIMEOUT: &str = "60s";
/// Timeout of the wait for the Dataplanes of the Pods.
const DATAPLANES_TIMEOUT: Duration = Duration::from_mins(2);
/// Number of lines of the log that an error shows.
const MAX_SHOWN_LINES: usize = 40;

/// Milestone of a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Milestone {
    /// `kuma-dp` has read its configuration.
    AgentStarted,
    /// `kuma-dp` has executed Envoy, and Envoy's `main` runs.
    EnvoyExecuted,
    /// Envoy has read its bootstrap, and its main thread accepts events.
    EnvoyInitialized,
    /// `kuma-dp` has received the first response of the control plane.
    FirstResponse,
    /// `kuma-dp` has the certificate.
    CertificateIssued,
    /// Envoy has the first clusters.
    ClustersReceived,
    /// Envoy has all endpoints, and the first listener.
    ListenersReceived,
    /// All listeners have their secrets, and the worker threads serve them.
    ListenersWarm,
    /// `/ready` responds with 200.
    Ready,
}

/// Milestones, with the time since the sidecar was executed, in milliseconds.
pub type Milestones = BTreeMap<Milestone, f64>;

/// A control plane whose mesh has many services, and one Pod whose sidecar can be started.
#[derive(Debug)]
pub struct Lab {
    kuma_dp: PathBuf,
    envoy: PathBuf,
    /// Folder with the files of the sidecar.
    folder: TempDir,
    /// Identity of the sidecar's Pod.
    identity: Sidecar,
    /// The control plane.
    pub control_plane: ControlPlane,
    /// Services and Pods of the mesh.
    pub objects: BenchObjects,
    // Must be the last field: fields are dropped in order, and the other fields use the API server.
    api_server: ApiServer,
}

/// A running sidecar. Dropping it kills `kuma-dp`, and with it Envoy.
#[derive(Debug)]
pub struct RunningSidecar(Child);

// === impl Milestone ===

impl Milestone {
    /// All milestones, in their usual order.
    pub const ALL: [Self; 9] = [
        Self::AgentStarted,
        Self::EnvoyExecuted,
        Self::EnvoyInitialized,
        Self::FirstResponse,
        Self::CertificateIssued,
        Self::ClustersReceived,
        Self::ListenersReceived,
        Self::ListenersWarm,
        Self::Ready,
    ];

    /// Returns the description for the table.
    pub fn description(self) -> &'static str {
        match self {
            Self::AgentStarted => "kuma-dp started",
            Self::EnvoyExecuted => "Envoy executed",
            Self::EnvoyInitialized => "Envoy initialized",
            Self::FirstResponse => "first ADS response",
            Self::CertificateIssued => "certificate issued",
            Self::ClustersReceived => "clusters received",
            Self::ListenersReceived => "listeners received",
            Self::ListenersWarm => "listeners warm",
            Self::Ready => "ready",
        }
    }

    /// Whether a line of the log shows the milestone. The first such line of a start does.
    pub fn is_shown_by(self, line: &str) -> bool {
        self.log_text().is_some_and(|text| line.contains(text))
    }

    /// Returns the text of the first log line that shows the milestone; `None` if no line does.
    fn log_text(self) -> Option<&'static str> {
        match self {
            Self::AgentStarted => Some("kuma-dp starts"),
            Self::EnvoyExecuted => Some("initializing epoch"),
            Self::EnvoyInitialized => Some("starting main dispatch loop"),
            Self::FirstResponse => Some("connected to the control plane"),
            Self::CertificateIssued => Some("certificate issued"),
            Self::ClustersReceived => Some("cds: add"),
            Self::ListenersReceived => Some("lds: add/update listener"),
            Self::ListenersWarm => Some("all dependencies initialized. starting workers"),
            Self::Ready => None,
        }
    }
}

// === impl Lab ===

impl Lab {
    /// Creates a cluster with this name, with `services` Services that have two Pods each, and starts the control plane.
    /// The sidecar will run in the network of the API server, which gets the IP of the sidecar's Pod.
    ///
    /// # Errors
    /// When a step fails.
    pub async fn start(config: &Config, envoy: PathBuf, name: &str, services: usize) -> Result<Self> {
        let api_server = ApiServer::up(name, config)?;
        let client = api_server.client().await?;
        let objects = BenchObjects::create(&client, services, services).await?;
        let control_plane = ControlPlane::start(&api_server, config, &[])?;
        // Without mTLS, a sidecar would request no certificate.
        api_server.apply(mesh::STRICT_MANIFEST)?;
        let dataplanes = DataplaneWatch::start(client);
        dataplanes
            .wait_for_count(objects.pod_count(), DATAPLANES_TIMEOUT)
            .await?;
        drop(dataplanes);
        let pod = objects.pod(0);
        let mut command = api_server.in_network(Path::new("ip"))?;
        command.args(["address", "add", &format!("{}/32", pod.ip()), "dev", "lo"]);
        run(command)?;
        let identity = objects.sidecar(&pod).await?;
        let folder = tempfile::tempdir()?;
        let token = identity.authorization.trim_start_matches("Bearer ");
        std::fs::write(folder.path().join("token"), token)?;
        std::fs::write(folder.path().join("resolv.conf"), "nameserver 127.0.0.1\n")?;
        Ok(Self {
            kuma_dp: config.checkout.release_binary("kuma-dp"),
            envoy,
            folder,
            identity,
            control_plane,
            objects,
            api_server,
        })
    }

    /// Returns the IP address at which the sidecar reaches servers of this process.
    pub fn host(&self) -> &str {
        &self.api_server.addresses.host
    }

    /// Lists the first `count` services as those that the sidecar's Pod calls.
    ///
    /// # Errors
    /// When the API server rejects a request, or the control plane does not write the list into the Dataplane.
    pub async fn list_services(&self, count: usize) -> Result<()> {
        let pod = self.objects.pod(0);
        self.objects.list_services(&pod, count, DATAPLANES_TIMEOUT).await
    }

    /// Starts the sidecar, waits until it is ready, and ends it.
    ///
    /// # Errors
    /// When the sidecar does not become ready, or a milestone is missing. The error contains the end of the log.
    pub fn measure(&self) -> Result<Milestones> {
        let mut command = self.command(self.control_plane.dp_server_address)?;
        command.stderr(Stdio::piped());
        let started_at = Instant::now();
        let mut sidecar = RunningSidecar(command.spawn().context("kuma-dp cannot be started")?);
        let log = sidecar.0.stderr.take().context("no log")?;
        let reader = read_milestones(log, started_at);
        let is_ready = self.wait_until_ready();
        let ready = milliseconds_since(started_at);
        drop(sidecar);
        let (mut milestones, log) = reader
            .join()
            .map_err(|_| anyhow::anyhow!("the thread that reads the log panicked"))?;
        let shown = log.len().saturating_sub(MAX_SHOWN_LINES);
        let log = log[shown..].join("\n");
        is_ready.with_context(|| format!("the sidecar is not ready; log:\n{log}"))?;
        milestones.insert(Milestone::Ready, ready);
        for milestone in Milestone::ALL {
            ensure!(
                milestones.contains_key(&milestone),
                "the log does not show the milestone {}:\n{log}",
                milestone.description()
            );
        }
        Ok(milestones)
    }

    /// Starts the sidecar with a control plane at `address`, and waits until it is ready. The file `log` gets its log.
    ///
    /// # Errors
    /// When the sidecar does not become ready.
    pub fn run(&self, address: SocketAddr, log: &Path) -> Result<RunningSidecar> {
        let mut command = self.command(address)?;
        command.stderr(File::create(log)?);
        let sidecar = RunningSidecar(command.spawn().context("kuma-dp cannot be started")?);
        self.wait_until_ready()
            .with_context(|| format!("the sidecar is not ready; see {}", log.display()))?;
        Ok(sidecar)
    }

    fn wait_until_ready(&self) -> Result<()> {
        let mut wait = self.api_server.in_network(&self.kuma_dp)?;
        wait.args(["wait", "--url", READY_URL, "--timeout", TIMEOUT]);
        wait.args(["--check-frequency", READY_INTERVAL]);
        run(wait).map(drop)
    }

    /// Returns the command that runs the sidecar, with the variables that the injector sets.
    fn command(&self, control_plane: SocketAddr) -> Result<Command> {
        let mut command = self.api_server.in_network(&self.kuma_dp)?;
        let Sidecar { namespace, name, .. } = &self.identity;
        let folder = self.folder.path();
        command
            .arg("run")
            .env("KUMA_CONTROL_PLANE_CA_CERT", &self.control_plane.ca_pem)
            .env("KUMA_CONTROL_PLANE_URL", format!("https://{control_plane}"))
            .env("KUMA_DATAPLANE_MESH", "default")
            .env("KUMA_DATAPLANE_NAME", format!("{name}.{namespace}"))
            .env("KUMA_DATAPLANE_DRAIN_TIME", "30s")
            .env("KUMA_DATAPLANE_NATIVE_SIDECAR", "true")
            .env("KUMA_DATAPLANE_RUNTIME_BINARY_PATH", &self.envoy)
            .env("KUMA_DATAPLANE_RUNTIME_ENVOY_LOG_LEVEL", "info")
            .env("KUMA_DATAPLANE_RUNTIME_SOCKET_DIR", folder)
            .env("KUMA_DATAPLANE_RUNTIME_TOKEN_PATH", folder.join("token"))
            .env("KUMA_DNS_ENABLED", "true")
            .env("KUMA_DNS_RESOLV_CONF", folder.join("resolv.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        Ok(command)
    }
}

// === impl RunningSidecar ===

impl RunningSidecar {
    /// Returns the process of `kuma-dp`.
    ///
    /// # Errors
    /// When the length of a clock tick is unknown.
    pub fn agent(&self) -> Result<Process> {
        Process::new(self.0.id())
    }
}

impl Drop for RunningSidecar {
    fn drop(&mut self) {
        // The process may have ended, so errors are ignored.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Reads a log until all programs that write it have ended. Returns the milestones that it shows, and its lines.
fn read_milestones(
    log: impl std::io::Read + Send + 'static,
    started_at: Instant,
) -> JoinHandle<(Milestones, Vec<String>)> {
    std::thread::spawn(move || {
        let mut milestones = Milestones::new();
        let mut lines = Vec::new();
        for line in BufReader::new(log).lines().map_while(Result::ok) {
            let now = milliseconds_since(started_at);
            let shown = Milestone::ALL
                .into_iter()
                .filter(|milestone| milestone.is_shown_by(&line));
            for milestone in shown {
                milestones.entry(milestone).or_insert(now);
            }
            lines.push(line);
        }
        (milestones, lines)
    })
}

fn milliseconds_since(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_line_with_a_text_shows_its_milestone() {
        let log = "a\n[info] cds: add 2 cluster(s)\n[info] cds: add 1 cluster(s)\ncertificate issued\n";
        let reader = read_milestones(log.as_bytes(), Instant::now());
        let (milestones, lines) = reader.join().expect("the thread ends");
        let found: Vec<_> = milestones.into_keys().collect();
        assert_eq!(found, [Milestone::CertificateIssued, Milestone::ClustersReceived]);
        assert_eq!(lines.len(), 4);
    }
}
