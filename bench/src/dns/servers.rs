//! The processes of CoreDNS and `kuma-dp`.

use std::fs::{self, File, Permissions};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail};
use kermode_identity::ServingAuthority;

use super::CORE_DNS_PORT;
use crate::process::{Process, bound_command};

/// Time limit of a server's start.
const START_TIMEOUT: Duration = Duration::from_secs(30);
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Number of response codes, which are in the lower bits of a byte. The code 0 means that there is no error.
const RESPONSE_CODES: u8 = 16;
/// Query for the address of `a`, with the ID 1.
const QUERY: [u8; 19] = [0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, b'a', 0, 0, 1, 0, 1];

/// Server that is killed when it is dropped.
struct Server {
    child: Child,
    process: Process,
}

/// CoreDNS with the plugins of the local cluster's Corefile, except that names of the cluster are forwarded, too: there
/// is no API server.
pub(super) struct CoreDns(Server);

/// `kuma-dp` with DNS. A program that sleeps takes the place of Envoy, and there is no control plane.
pub(super) struct Agent(Server);

impl Server {
    /// Starts a server, and waits until it answers queries on `port`.
    fn start(command: &mut Command, port: u16, log: &Path) -> Result<Self> {
        let file = File::create(log)?;
        let child = command
            .stdout(Stdio::from(file.try_clone()?))
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        let server = Self {
            process: Process::new(child.id())?,
            child,
        };
        let started_at = Instant::now();
        while !answers(port) {
            if started_at.elapsed() > START_TIMEOUT {
                bail!(
                    "no answer on port {port} within {START_TIMEOUT:?}; log:\n{}",
                    fs::read_to_string(log)?
                );
            }
        }
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The process may have ended, so errors are ignored.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns whether a server on `port` answers a query within [`POLL_INTERVAL`].
fn answers(port: u16) -> bool {
    let ask = || {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.set_read_timeout(Some(POLL_INTERVAL))?;
        socket.connect((Ipv4Addr::LOCALHOST, port))?;
        socket.send(&QUERY)?;
        let mut buffer = [0; 512];
        socket.recv(&mut buffer).map(|_| buffer[3] % RESPONSE_CODES == 0)
    };
    let is_answered: std::io::Result<bool> = ask();
    let is_answered = is_answered.unwrap_or(false);
    if !is_answered {
        // A closed port is reported at once.
        std::thread::sleep(POLL_INTERVAL);
    }
    is_answered
}

impl CoreDns {
    pub(super) fn start(program: &Path, upstream: SocketAddr, folder: &Path) -> Result<Self> {
        let corefile = folder.join("Corefile");
        let text = format!(
            ".:{CORE_DNS_PORT} {{\n    errors\n    forward . {upstream}\n    cache 30\n    loadbalance\n}}\n"
        );
        fs::write(&corefile, text)?;
        let mut command = bound_command(program);
        command.arg("-conf").arg(corefile);
        Server::start(&mut command, CORE_DNS_PORT, &folder.join("coredns.log")).map(Self)
    }

    pub(super) fn process(&self) -> &Process {
        &self.0.process
    }
}

impl Agent {
    pub(super) fn start(program: &Path, port: u16, is_cache_enabled: bool, folder: &Path) -> Result<Self> {
        let folder = folder.join(format!("kuma-dp-{port}"));
        fs::create_dir(&folder)?;
        let envoy = folder.join("envoy");
        fs::write(&envoy, "#!/bin/sh\nexec sleep infinity\n")?;
        fs::set_permissions(&envoy, Permissions::from_mode(0o755))?;
        let token = folder.join("token");
        fs::write(&token, "token")?;
        let resolv_conf = folder.join("resolv.conf");
        fs::write(&resolv_conf, format!("nameserver {}\n", Ipv4Addr::LOCALHOST))?;
        let authority = ServingAuthority::generate(SystemTime::now())?;
        let mut command = bound_command(program);
        command
            .arg("run")
            .env_clear()
            .env("KUMA_CONTROL_PLANE_URL", "https://127.0.0.1:1")
            .env("KUMA_CONTROL_PLANE_CA_CERT", authority.certificate_pem())
            .env("KUMA_DATAPLANE_NAME", "web-0.demo")
            .env("KUMA_DATAPLANE_RUNTIME_TOKEN_PATH", token)
            .env("KUMA_DATAPLANE_RUNTIME_BINARY_PATH", envoy)
            .env("KUMA_DATAPLANE_RUNTIME_SOCKET_DIR", &folder)
            .env("KUMA_DNS_ENABLED", "true")
            .env("KUMA_DNS_CORE_DNS_PORT", port.to_string())
            .env("KUMA_DNS_CACHE_ENABLED", is_cache_enabled.to_string())
            .env("KUMA_DNS_PROMETHEUS_PORT", (port + 1).to_string())
            .env("KUMA_DNS_RESOLV_CONF", resolv_conf);
        Server::start(&mut command, port, &folder.join("log")).map(Self)
    }

    pub(super) fn process(&self) -> &Process {
        &self.0.process
    }
}
