//! Start and end of the drain, and the connections and requests that a native sidecar waits for.

use std::net::SocketAddr;

use kermode_model::{ApplicationProbe, ProbeProtocol, Probes};
use nix::sys::signal::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::MTLS;
use crate::agent::Agent;
use crate::control_plane::{ControlPlane, POD_IP, free_address};
use crate::removal::COMPLETE;

/// Variables of a native sidecar with a drain time that is longer than a test waits for the end of the agent.
const NATIVE: [(&str, &str); 2] = [
    ("KUMA_DATAPLANE_NATIVE_SIDECAR", "true"),
    ("KUMA_DATAPLANE_DRAIN_TIME", "1h"),
];

#[tokio::test]
async fn second_signal_ends_the_drain() {
    let control_plane = ControlPlane::start(MTLS).await;
    let overrides = [("KUMA_DATAPLANE_DRAIN_TIME", "1h")];
    let mut agent = Agent::start(&control_plane, "first-token", &overrides).await;
    agent.wait_for_ready_status(200).await;
    agent.send_signal(Signal::SIGTERM);
    agent.wait_for_ready_status(503).await;
    agent.send_signal(Signal::SIGINT);
    assert_eq!(agent.wait_for_end().await.code(), Some(0));
}

#[tokio::test]
async fn native_sidecar_ends_when_its_last_connection_closes_even_if_drain_time_remains() {
    let control_plane = ControlPlane::start(MTLS).await;
    let mut agent = Agent::start(&control_plane, "first-token", &NATIVE).await;
    agent.wait_for_ready_status(200).await;
    let open_connection = connect_to_inbound(&agent, &control_plane).await;
    agent.send_signal(Signal::SIGTERM);
    agent.wait_for_ready_status(503).await;
    agent
        .eventually("the agent logs the open connection", async || {
            agent.log().contains("connections=1").then_some(())
        })
        .await;
    drop(open_connection);
    assert_eq!(agent.wait_for_end().await.code(), Some(0));
}

#[tokio::test]
async fn native_sidecar_stops_envoy_in_the_last_seconds_of_the_grace_period_of_its_pod() {
    let (control_plane, probe) = start_with_probe().await;
    let application = TcpListener::bind(probe.application).await.unwrap();
    // The 5 s are those in which Envoy is stopped.
    let [native, drain_time] = NATIVE;
    let grace_period = ("KUMA_DATAPLANE_TERMINATION_GRACE_PERIOD", "5s");
    let overrides = [native, drain_time, grace_period];
    let mut agent = Agent::start(&control_plane, "first-token", &overrides).await;
    agent.wait_for_ready_status(200).await;
    let _client = agent
        .eventually("Envoy accepts a request", async || probe.send_request().await)
        .await;
    // The application never responds, so the request stays in progress.
    let _server = application.accept().await.unwrap();
    agent.report_termination().await;
    agent.wait_for_ready_status(503).await;
    agent.send_signal(Signal::SIGTERM);
    assert_eq!(agent.wait_for_end().await.code(), Some(0));
}

#[tokio::test]
async fn terminating_pod_drains_its_native_sidecar_until_the_signal_even_after_a_crash() {
    let (control_plane, probe) = start_with_probe().await;
    let mut agent = Agent::start(&control_plane, "first-token", &NATIVE).await;
    agent.wait_for_ready_status(200).await;
    // Nothing listens on the application's port, so Envoy responds to the probe itself.
    let response = async || probe.get().await.map(|(_, head)| head);
    let head = agent.eventually("Envoy responds", response).await;
    assert!(!head.contains("connection: close"), "{head}");

    agent.report_termination().await;
    agent.wait_for_ready_status(503).await;
    let head = response().await.expect("Envoy still serves");
    assert!(head.contains("connection: close"), "{head}");

    agent.crash_envoy().await;
    agent
        .eventually("the restarted Envoy drains", async || {
            let head = response().await?;
            head.contains("connection: close").then_some(())
        })
        .await;
    agent.send_signal(Signal::SIGTERM);
    assert_eq!(agent.wait_for_end().await.code(), Some(0));
}

#[tokio::test]
async fn connection_without_a_request_does_not_keep_a_native_sidecar_once_its_endpoint_is_removed() {
    let (control_plane, probe) = start_with_probe().await;
    control_plane.report_removal(Ok(COMPLETE));
    let mut agent = Agent::start(&control_plane, "first-token", &NATIVE).await;
    agent.wait_for_ready_status(200).await;
    // Nothing listens on the application's port, so Envoy responds itself, and keeps the connection open.
    let _connection = agent
        .eventually("Envoy responds", async || probe.get().await)
        .await;
    agent.send_signal(Signal::SIGTERM);
    assert_eq!(agent.wait_for_end().await.code(), Some(0));
    let log = agent.log();
    assert!(log.contains("connections=1 in_progress=0"), "{log}");
}

#[tokio::test]
async fn native_sidecar_waits_for_the_response_to_a_request() {
    let (control_plane, probe) = start_with_probe().await;
    control_plane.report_removal(Ok(COMPLETE));
    let application = TcpListener::bind(probe.application).await.unwrap();
    let mut agent = Agent::start(&control_plane, "first-token", &NATIVE).await;
    agent.wait_for_ready_status(200).await;
    let mut client = agent
        .eventually("Envoy accepts a request", async || probe.send_request().await)
        .await;
    // The application has the request, and has not responded.
    let (mut server, _) = application.accept().await.unwrap();
    agent.send_signal(Signal::SIGTERM);
    agent
        .eventually("the agent logs the request", async || {
            agent.log().contains("connections=1 in_progress=1").then_some(())
        })
        .await;
    server
        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        .await
        .unwrap();
    let head = read_head(&mut client).await.unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert_eq!(agent.wait_for_end().await.code(), Some(0));
}

/// Virtual probe, which Envoy forwards to the application in plain text.
struct Probe {
    /// Address of Envoy's listener.
    listener: SocketAddr,
    path: String,
    /// Address of the application, at which nothing listens at first.
    application: SocketAddr,
}

/// Starts a control plane whose proxy has a probe.
async fn start_with_probe() -> (ControlPlane, Probe) {
    let application = free_address(POD_IP).await;
    let probe = ApplicationProbe::new(ProbeProtocol::Http, application.port(), "/");
    let listener = free_address(POD_IP).await;
    let probes = Probes {
        port: listener.port(),
        endpoints: vec![probe.clone()],
    };
    let control_plane = ControlPlane::start_with_probes(MTLS, probes).await;
    let probe = Probe {
        listener,
        path: probe.path.clone(),
        application,
    };
    (control_plane, probe)
}

impl Probe {
    /// Sends a request. Returns the connection, or `None` if there is none.
    async fn send_request(&self) -> Option<TcpStream> {
        let mut stream = TcpStream::connect(self.listener).await.ok()?;
        let request = format!("GET {} HTTP/1.1\r\nhost: web\r\n\r\n", self.path);
        stream.write_all(request.as_bytes()).await.ok()?;
        Some(stream)
    }

    /// Sends a request and reads the head of the response. Returns both, or `None` if there is no response.
    async fn get(&self) -> Option<(TcpStream, String)> {
        let mut stream = self.send_request().await?;
        let head = read_head(&mut stream).await?;
        Some((stream, head))
    }
}

/// Reads the head of a response. Returns `None` if there is no response.
async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    String::from_utf8(head).ok()
}

/// Opens a connection without a request to the inbound, and waits until Envoy counts it.
async fn connect_to_inbound(agent: &Agent, control_plane: &ControlPlane) -> TcpStream {
    let connection = agent
        .eventually("the inbound accepts a connection", async || {
            TcpStream::connect(control_plane.inbound).await.ok()
        })
        .await;
    agent
        .eventually("Envoy counts the connection", async || {
            // The listener of the inbound is the only one at 127.0.0.2.
            let (_, statistics) = agent
                .admin_request("GET", "/stats?filter=downstream_cx_active")
                .await?;
            statistics
                .lines()
                .any(|line| line.starts_with("listener.127.0.0.2") && line.ends_with(": 1"))
                .then_some(())
        })
        .await;
    connection
}
