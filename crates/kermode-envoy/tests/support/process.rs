//! Servers for tests: an Envoy process and an application.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use super::envoy;

/// Timeout of every wait; long enough for a busy machine.
const TIMEOUT: Duration = Duration::from_mins(1);

/// A live Envoy process. Dropping it kills the process.
pub(crate) struct RunningEnvoy {
    child: Child,
    /// Address of the admin interface.
    admin_address: SocketAddr,
    folder: TempDir,
}

impl RunningEnvoy {
    /// Starts Envoy and waits until it is live.
    pub(crate) fn start(config: &Value) -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let config_path = folder.path().join("envoy.json");
        let admin_address_file = folder.path().join("admin");
        let log = std::fs::File::create(folder.path().join("log")).expect("a log file");
        std::fs::write(&config_path, serde_json::to_vec(config).expect("JSON"))
            .expect("a writable directory");
        let mut child = Command::new(envoy::binary())
            .args([
                "--disable-hot-restart",
                "--concurrency",
                "1",
                "--log-level",
                "info",
                "--config-path",
            ])
            .arg(&config_path)
            .arg("--admin-address-path")
            .arg(&admin_address_file)
            .stderr(log)
            .stdout(Stdio::null())
            .spawn()
            .expect("Envoy runs");
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let admin_address = std::fs::read_to_string(&admin_address_file)
                .ok()
                .and_then(|text| text.parse().ok());
            if let Some(admin_address) = admin_address
                && get(admin_address, "/ready").contains("LIVE")
            {
                return Self {
                    child,
                    admin_address,
                    folder,
                };
            }
            let exit_status = child.try_wait().expect("a child");
            if exit_status.is_some() || Instant::now() > deadline {
                let _ = child.kill();
                let log = std::fs::read_to_string(folder.path().join("log")).unwrap_or_default();
                panic!("Envoy did not become live:\n{log}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Stops the process by a signal. Its connections stay open, and nothing reads from them.
    pub(crate) fn stop(&self) {
        let pid = i32::try_from(self.child.id()).expect("a process ID");
        let pid = Pid::from_raw(pid);
        nix::sys::signal::kill(pid, Signal::SIGSTOP).expect("a running process");
        // The signal is asynchronous: the process may run until it is reported as stopped.
        let status = waitpid(pid, Some(WaitPidFlag::WUNTRACED)).expect("a child");
        assert_eq!(status, WaitStatus::Stopped(pid, Signal::SIGSTOP));
    }

    /// Returns the address that a listener is bound to.
    pub(crate) fn address_of(&self, listener: &str) -> SocketAddr {
        let listeners = self.get_from_admin("/listeners?format=json");
        let listeners: Value = serde_json::from_str(&listeners).expect("JSON");
        let statuses = listeners["listener_statuses"].as_array().expect("listeners");
        let status = statuses.iter().find(|status| status["name"] == listener);
        let status = status.unwrap_or_else(|| panic!("no listener {listener} in {listeners}"));
        let address = &status["local_address"]["socket_address"];
        let ip = address["address"].as_str().expect("an address");
        let port = address["port_value"].to_string();
        SocketAddr::new(ip.parse().expect("an address"), port.parse().expect("a port"))
    }

    /// Returns the sum of the counters whose names match the regular expression.
    pub(crate) fn counter_sum(&self, regex: &str) -> u64 {
        let stats = self.get_from_admin(&format!("/stats?filter=^{regex}$"));
        let parse_value = |line: &str| {
            line.rsplit_once(": ")
                .and_then(|(_, value)| value.parse::<u64>().ok())
        };
        stats.lines().filter_map(parse_value).sum()
    }

    /// Sends a GET request to the admin interface and returns the body of the response.
    fn get_from_admin(&self, path: &str) -> String {
        let response = get(self.admin_address, path);
        let (head, body) = response.split_once("\r\n\r\n").expect("a response");
        if head.contains("transfer-encoding: chunked") {
            decode_chunks(body)
        } else {
            body.to_owned()
        }
    }
}

impl Drop for RunningEnvoy {
    #[allow(clippy::print_stderr, reason = "a failed test prints the log of Envoy")]
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            eprintln!("Envoy's log:\n{log}");
        }
    }
}

/// An HTTP/1.1 server. The body of a response is the head of the request in lower case. After a WebSocket upgrade, the
/// server echoes bytes.
pub(crate) struct Application {
    /// Address that the server listens on.
    pub(crate) address: SocketAddr,
    request_count: Arc<AtomicUsize>,
}

impl Application {
    /// Starts the server; its thread ends with the process of the test.
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let request_count = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&request_count);
        std::thread::spawn(move || {
            for connection in listener.incoming().map_while(Result::ok) {
                let counter = Arc::clone(&counter);
                std::thread::spawn(move || serve(connection, &counter));
            }
        });
        Self {
            address,
            request_count,
        }
    }

    /// Returns the number of requests that the server has received.
    pub(crate) fn request_count(&self) -> usize {
        self.request_count.load(Ordering::SeqCst)
    }
}

/// Serves a connection of the application until the connection ends or fails. The result is always `None`.
fn serve(mut connection: TcpStream, counter: &AtomicUsize) -> Option<()> {
    let mut reader = BufReader::new(connection.try_clone().ok()?);
    loop {
        let mut head = String::new();
        // The head ends with an empty line, which is `\r\n`.
        while reader.read_line(&mut head).ok()? > 2 {}
        if head.is_empty() {
            return None;
        }
        counter.fetch_add(1, Ordering::SeqCst);
        let head = head.to_lowercase();
        if head.contains("upgrade: websocket") {
            connection
                .write_all(
                    b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
                )
                .ok()?;
            let mut byte = [0];
            while reader.read_exact(&mut byte).is_ok() {
                connection.write_all(&byte).ok()?;
            }
            return None;
        }
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        let mut body = vec![0; length.unwrap_or_default()];
        reader.read_exact(&mut body).ok()?;
        let mut response = String::new();
        // The response has the header `x-kermode-undelivered`, so that tests can check that sidecars remove it.
        write!(
            response,
            "HTTP/1.1 200 OK\r\nx-kermode-undelivered: forged\r\ncontent-length: {}\r\n\r\n{head}",
            head.len(),
        )
        .ok()?;
        connection.write_all(response.as_bytes()).ok()?;
        if head.contains("connection: close") {
            return None;
        }
    }
}

/// Decodes a chunked body.
fn decode_chunks(mut body: &str) -> String {
    let mut text = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let (chunk, rest) = rest.split_at(usize::from_str_radix(size, 16).expect("a size"));
        text.push_str(chunk);
        body = rest.trim_start_matches("\r\n");
    }
    text
}

/// Sends a GET request and returns the response, including its head; empty if the connection fails.
pub(crate) fn get(address: SocketAddr, path: &str) -> String {
    send(
        address,
        &format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n"),
    )
}

/// Sends text and returns everything that the server sends; empty if the connection fails.
pub(crate) fn send(address: SocketAddr, text: &str) -> String {
    let mut response = Vec::new();
    if let Ok(mut connection) = TcpStream::connect(address) {
        connection.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
        let _ = connection.write_all(text.as_bytes());
        let _ = connection.read_to_end(&mut response);
    }
    String::from_utf8_lossy(&response).into_owned()
}
