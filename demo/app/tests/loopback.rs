//! Tests of the program `kermode-demo` on loopback: responses, counters and exit codes.

#![allow(clippy::expect_used, reason = "the whole file is a test")]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_kermode-demo");

/// A process of the program in one of its roles (`server`, `client`, …), killed when dropped.
struct RoleProcess(Child);

impl Drop for RoleProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl RoleProcess {
    /// Starts the program. Returns the process and its first line of output.
    fn start(args: &[&str]) -> (Self, String) {
        let mut child = Command::new(PROGRAM)
            .args(args)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("a pipe");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        (Self(child), line.trim().to_owned())
    }

    /// Starts a role that listens on a free port. Returns the process and its address.
    fn listening(role: &str) -> (Self, String) {
        Self::listening_with(&[role])
    }

    /// Starts a role with flags that listens on a free port. Returns the process and its address.
    fn listening_with(args: &[&str]) -> (Self, String) {
        let (child, line) = Self::start(&[args, &["--listen=127.0.0.1:0"]].concat());
        let address = line.rsplit(' ').next().expect("an address").to_owned();
        (child, address)
    }

    fn terminate(&mut self) -> std::process::ExitStatus {
        let pid = i32::try_from(self.0.id()).expect("a pid");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGTERM).expect("a signal");
        self.0.wait().expect("an exit status")
    }
}

/// Runs the program to its end. Returns the exit code and the standard output.
fn run(args: &[&str]) -> (i32, String) {
    let Output { status, stdout, .. } = Command::new(PROGRAM)
        .args(args)
        .output()
        .expect("the program runs");
    (
        status.code().expect("an exit code"),
        String::from_utf8_lossy(&stdout).trim().to_owned(),
    )
}

#[test]
fn server_describes_the_request_and_ends_on_sigterm() {
    let (mut server, address) = RoleProcess::listening("server");
    let (code, text) = run(&["get", &format!("http://{address}/some/path?query")]);
    assert_eq!(code, 0, "{text}");
    let response: Value = serde_json::from_str(text.strip_prefix("200 ").expect("a status")).expect("JSON");
    assert_eq!(response["pod"], host_name());
    assert_eq!(response["path"], "/some/path");
    assert_eq!(response["headers"]["host"], address);
    assert!(
        response["remoteAddress"]
            .as_str()
            .is_some_and(|remote| remote.starts_with("127.0.0.1:"))
    );
    assert!(server.terminate().success());
}

#[test]
fn request_to_an_https_url_is_encrypted_and_accepts_the_certificate_of_the_server() {
    let (_server, address) = RoleProcess::listening_with(&["server", "--tls"]);
    let (code, text) = run(&["get", &format!("https://{address}/some/path")]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("\"path\":\"/some/path\""), "{text}");
    let (code, text) = run(&["get", &format!("http://{address}/")]);
    assert_eq!(code, 1, "plain text to a TLS server: {text}");
    let (_server, address) = RoleProcess::listening("server");
    let (code, text) = run(&["get", &format!("https://{address}/")]);
    assert_eq!(code, 1, "{text}");
    assert!(text.starts_with("failed: tls: "), "{text}");
}

#[test]
fn request_of_http_2_or_grpc_gets_the_response() {
    let (_server, address) = RoleProcess::listening("server");
    let url = format!("http://{address}/some/path?query");
    let (code, text) = run(&["get", "--protocol=http2", "--count=2", &url]);
    assert_eq!(
        (code, text.matches("\"path\":\"/some/path\"").count()),
        (0, 2),
        "{text}"
    );
    assert!(!text.contains("\"host\""), "HTTP/2 has no header host: {text}");
    let health = format!("http://{address}/grpc.health.v1.Health/Check");
    assert_eq!(run(&["get", "--protocol=grpc", &health]).0, 0);
    assert_eq!(
        run(&["get", "--protocol=grpc", &url]),
        (1, "failed: grpc-status: missing".to_owned())
    );
}

#[test]
fn host_names_are_resolved() {
    let (_server, address) = RoleProcess::listening("server");
    let port = address.rsplit(':').next().expect("a port");
    let (code, text) = run(&["get", &format!("http://localhost:{port}/")]);
    assert_eq!(code, 0, "{text}");
}

#[test]
fn exit_code_is_0_only_when_every_result_is_as_expected() {
    let (mut server, address) = RoleProcess::listening("server");
    let url = format!("http://{address}/");
    assert_eq!(run(&["get", &url, "--count=3"]).1.lines().count(), 3);
    assert_eq!(run(&["get", &url, "--expect-fail"]).0, 1);
    assert!(server.terminate().success());
    assert_eq!(
        run(&["get", &url]),
        (1, "failed: connect: Connection refused (os error 111)".to_owned())
    );
    assert_eq!(run(&["get", &url, "--expect-fail"]).0, 0);
    assert_eq!(run(&["tcp-probe", &address]).0, 1);
    assert_eq!(
        run(&["get", "ftp://x/"]).0,
        2,
        "an invalid URL is a usage error, not a failed request"
    );
}

#[test]
fn connections_are_reused_only_with_keep_alive() {
    let (_server, address) = RoleProcess::listening("server");
    let url = format!("http://{address}/");
    let connection_count = |args: &[&str]| {
        let (_, text) = run(args);
        let remotes: std::collections::BTreeSet<String> = text
            .lines()
            .map(|line| serde_json::from_str(line.strip_prefix("200 ").expect("a status")).expect("JSON"))
            .map(|response: Value| response["remoteAddress"].to_string())
            .collect();
        remotes.len()
    };
    assert_eq!(connection_count(&["get", &url, "--count=3", "--keep-alive"]), 1);
    assert_eq!(connection_count(&["get", &url, "--count=3"]), 3);
}

#[test]
fn tcp_probe_that_sends_a_text_requires_a_response() {
    let (_echo, address) = RoleProcess::listening("echo");
    assert_eq!(
        run(&["tcp-probe", &address, "--send=hello"]),
        (0, "response: hello".to_owned())
    );
    // This listener accepts a connection and closes it, like a proxy whose upstream is unreachable.
    let closing_listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
    let address = closing_listener.local_addr().expect("an address").to_string();
    let acceptor = std::thread::spawn(move || {
        let (mut stream, _) = closing_listener.accept().expect("a connection");
        let _ = std::io::Read::read(&mut stream, &mut [0; 16]);
    });
    assert_eq!(run(&["tcp-probe", &address, "--send=hello"]).0, 1);
    acceptor.join().expect("the thread ends");
}

#[test]
fn client_counts_requests_and_serves_its_counters() {
    let (_server, address) = RoleProcess::listening("server");
    let counters_address = free_address();
    let (mut client, line) = RoleProcess::start(&[
        "client",
        &format!("http://{address}/"),
        "--interval=10ms",
        &format!("--listen={counters_address}"),
    ]);
    assert!(line.starts_with("requests="), "{line}");
    let counters = read_counters(&counters_address);
    assert!(
        counters["succeeded"].as_u64().is_some_and(|count| count > 0),
        "{counters}"
    );
    assert_eq!(counters["failed"], 0);
    assert_eq!(counters["byPod"].as_object().map(serde_json::Map::len), Some(1));
    assert_eq!(counters["lastAnswer"]["path"], "/");
    assert!(client.terminate().success());
}

#[test]
fn client_counts_requests_of_every_protocol() {
    let (_server, address) = RoleProcess::listening("server");
    for (protocol, path) in [
        ("http1", ""),
        ("http2", ""),
        ("grpc", "grpc.health.v1.Health/Check"),
    ] {
        let url = format!("http://{address}/{path}");
        let protocol = format!("--protocol={protocol}");
        let counters = counters_of(&["client", &url, &protocol, "--interval=10ms", "--connections=3"]);
        assert!(
            counters["succeeded"].as_u64() > Some(10),
            "{protocol}: {counters}"
        );
        assert_eq!(counters["failed"], 0, "{protocol}: {counters}");
    }
    let (_server, address) = RoleProcess::listening_with(&["server", "--tls"]);
    let counters = counters_of(&[
        "client",
        &format!("http://{address}/"),
        "--protocol=http2",
        "--interval=10ms",
    ]);
    assert_eq!(counters["succeeded"], 0, "plain text to a TLS server: {counters}");
    assert!(counters["failures"][0]["count"].as_u64() > Some(0), "{counters}");
}

/// Runs a client for a second. Returns its counters.
fn counters_of(args: &[&str]) -> Value {
    let address = free_address();
    let (_client, _first_second) = RoleProcess::start(&[args, &[&format!("--listen={address}")]].concat());
    read_counters(&address)
}

fn read_counters(address: &str) -> Value {
    let (code, text) = run(&["get", &format!("http://{address}/")]);
    assert_eq!(code, 0, "{text}");
    serde_json::from_str(text.strip_prefix("200 ").expect("a status")).expect("JSON")
}

/// Returns an address with a free port.
fn free_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
    listener.local_addr().expect("an address").to_string()
}

#[test]
fn server_that_exits_on_sigterm_reports_the_requests_in_progress() {
    for (behaviour, unfinished) in [("exit", 1), ("drain", 0)] {
        let on_sigterm = format!("--on-sigterm={behaviour}");
        let mut child = Command::new(PROGRAM)
            .args([
                "server",
                "--listen=127.0.0.1:0",
                "--delay=2s",
                &on_sigterm,
                "--log-requests",
            ])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let mut server = RoleProcess(child);
        let mut next_line = || lines.next().expect("a line").expect("text");
        let address = next_line().rsplit(' ').next().expect("an address").to_owned();
        let client = std::thread::spawn(move || run(&["get", &format!("http://{address}/")]).0);
        assert_eq!(next_line(), "request /");
        assert!(server.terminate().success());
        assert_eq!(
            next_line(),
            format!("ended with {unfinished} requests in progress")
        );
        assert_eq!(client.join().expect("the thread ends"), unfinished);
    }
}

#[test]
fn echo_client_records_the_end_of_a_connection_that_it_did_not_close() {
    let echo_address = free_address();
    let echo_listen = format!("--echo-listen={echo_address}");
    let (mut server, _) = RoleProcess::listening_with(&["server", &echo_listen, "--on-sigterm=exit"]);
    let address = free_address();
    let (_client, first_second) = RoleProcess::start(&[
        "echo-client",
        &echo_address,
        "--connections=2",
        "--interval=10ms",
        &format!("--listen={address}"),
    ]);
    assert!(first_second.contains("failed=0"), "{first_second}");
    assert!(server.terminate().success());
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    let counters = loop {
        let counters = read_counters(&address);
        let ended = counters["endedConnections"].as_array().map_or(0, Vec::len);
        if ended == 2 || std::time::Instant::now() > deadline {
            break counters;
        }
    };
    let ended = counters["endedConnections"].as_array().expect("a list");
    assert_eq!(ended.len(), 2, "{counters}");
    assert!(ended.iter().all(|end| end["pod"] == host_name()), "{counters}");
}

fn host_name() -> String {
    let name = nix::unistd::gethostname().expect("a host name");
    name.to_string_lossy().into_owned()
}

/// Sends a request with curl, which accepts any certificate. Returns the response as curl writes it.
fn curl(args: &[&str]) -> Vec<u8> {
    let output = Command::new("curl")
        .args(["--silent", "--insecure", "--max-time", "30"])
        .args(args)
        .output()
        .expect("curl runs");
    output.stdout
}

#[test]
fn server_responds_to_health_checks_of_every_protocol() {
    // The gRPC status is SERVING (1) or NOT_SERVING (2).
    for (flags, http_status, serving_status) in [(&[][..], "200", 1), (&["--unhealthy"], "503", 2)] {
        let (_http_server, http_address) = RoleProcess::listening_with(&[&["server"], flags].concat());
        let (_tls_server, tls_address) = RoleProcess::listening_with(&[&["server", "--tls"], flags].concat());
        let write_status = ["--output", "/dev/null", "--write-out", "%{http_code}"];
        for url in [
            format!("http://{http_address}/healthz"),
            format!("https://{tls_address}/healthz"),
        ] {
            let arguments = [&write_status[..], &[&url]].concat();
            assert_eq!(curl(&arguments), http_status.as_bytes(), "{url}");
        }
        let url = format!("http://{http_address}/grpc.health.v1.Health/Check");
        let message = curl(&["--http2-prior-knowledge", "--data", "", &url]);
        assert_eq!(message, [0, 0, 0, 0, 2, 8, serving_status]);
    }
}
