//! Tests of requests through two real Envoys on loopback: the sidecar of a client and the sidecar of a server.
//!
//! `support::sidecar` describes how these Envoys differ from those of Pods.

#![allow(clippy::expect_used, clippy::panic, reason = "a panic fails the test")]

mod support;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use nix::sys::socket::{Backlog, listen};
use support::certificates::Authority;
use support::process::{Application, RunningEnvoy, get, send};
use support::secrets::write_secrets;
use support::sidecar::start_proxy;
use tempfile::TempDir;

/// SPIFFE ID of the client.
const CLIENT_ID: &str = "spiffe://default/client_demo_svc";

/// The sidecars of a client and of a server, and an application.
struct TestMesh {
    application: Application,
    server: RunningEnvoy,
    client: RunningEnvoy,
    /// Address of the inbound of the service `web`.
    web: SocketAddr,
    /// Inbounds of the services with session affinity: index in [`SERVICES`], and address.
    sticky: Vec<(usize, SocketAddr)>,
    _dead: [DeadAddress; 2],
    _secrets: [TempDir; 2],
}

/// Address that, like the address of a dead node, does not respond to SYN packets: the queue of its listener is full.
struct DeadAddress {
    address: SocketAddr,
    _listener: TcpListener,
    _queued: Vec<TcpStream>,
}

impl DeadAddress {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        listen(&listener, Backlog::new(1).expect("a length")).expect("a shorter queue");
        let attempts =
            std::iter::repeat_with(|| TcpStream::connect_timeout(&address, Duration::from_millis(300)));
        let queued: Vec<_> = attempts.take(16).map_while(Result::ok).collect();
        assert!(queued.len() < 16, "the queue of the listener does not fill");
        Self {
            address,
            _listener: listener,
            _queued: queued,
        }
    }
}

/// Names and addresses of the services:
///
/// - `web` allows all callers, and `locked` allows only a caller that does not exist.
/// - `half` allows callers with the tag `app: client`, which the client has. One of its two endpoints has no application.
/// - One of the two endpoints of `lost` (HTTP) and of `lost-tcp` is on a dead node.
/// - `sticky` (HTTP) and `sticky-tcp` have session affinity.
/// - Both endpoints of `aborting` abort each response.
/// - The application of `limited` (HTTP/2) refuses the first stream.
/// - `listed` has no selector. Its `EndpointSlice` lists the inbound of `web`, and the application without a sidecar.
const SERVICES: [(&str, &str); 10] = [
    ("web_demo_svc_80", "10.96.0.1:80"),
    ("locked_demo_svc_80", "10.96.0.2:80"),
    ("half_demo_svc_80", "10.96.0.3:80"),
    ("lost_demo_svc_80", "10.96.0.4:80"),
    ("lost-tcp_demo_svc_80", "10.96.0.5:80"),
    ("sticky_demo_svc_80", "10.96.0.6:80"),
    ("sticky-tcp_demo_svc_80", "10.96.0.7:80"),
    ("aborting_demo_svc_80", "10.96.0.8:80"),
    ("listed_demo_svc_80", "10.96.0.9:80"),
    ("limited_demo_svc_80", "10.96.0.10:80"),
];
/// Index of `web` in [`SERVICES`].
const WEB: usize = 0;
/// Index of `locked` in [`SERVICES`].
const LOCKED: usize = 1;
/// Index of `half` in [`SERVICES`].
const HALF: usize = 2;
/// Index of `lost` in [`SERVICES`].
const LOST: usize = 3;
/// Index of `lost-tcp` in [`SERVICES`].
const LOST_TCP: usize = 4;
/// Index of `sticky` in [`SERVICES`].
const STICKY: usize = 5;
/// Index of `sticky-tcp` in [`SERVICES`].
const STICKY_TCP: usize = 6;
/// Index of `aborting` in [`SERVICES`].
const ABORTING: usize = 7;
/// Index of `listed` in [`SERVICES`].
const LISTED: usize = 8;
/// Index of `limited` in [`SERVICES`].
const LIMITED: usize = 9;

const WEBSOCKET_REQUEST: &str = "GET /ws HTTP/1.1\r\nhost: web\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
     sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n";

impl TestMesh {
    fn start(mode: &str) -> Self {
        let application = Application::start();
        // The listener is dropped at once, so nothing listens on its port.
        let closed = TcpListener::bind("127.0.0.1:0")
            .expect("a free port")
            .local_addr()
            .expect("an address");
        let web = forward_to(application.address);
        let locked = forward_to(application.address);
        let half = forward_to(application.address);
        let lost = [forward_to(application.address), forward_to(application.address)];
        let sticky: [SocketAddr; 6] = std::array::from_fn(|_| forward_to(application.address));
        let aborting = [start_aborting_application(), start_aborting_application()];
        let limited = start_limited_application();
        let dead = [DeadAddress::new(), DeadAddress::new()];
        let sticky_services = [STICKY, STICKY, STICKY, STICKY_TCP, STICKY_TCP, STICKY_TCP];
        let sticky_inbounds: Vec<_> = sticky_services.into_iter().zip(sticky).collect();
        let mut inbounds = vec![
            (WEB, web),
            (LOCKED, locked),
            (HALF, half),
            (HALF, closed),
            (LOST, lost[0]),
            (LOST, dead[0].address),
            (LOST_TCP, lost[1]),
            (LOST_TCP, dead[1].address),
            (ABORTING, aborting[0]),
            (ABORTING, aborting[1]),
            (LIMITED, limited),
        ];
        inbounds.extend(&sticky_inbounds);
        let input = mk_input(mode, &inbounds, application.address);

        let authority = Authority::new();
        let services = SERVICES.map(|(name, _)| format!("spiffe://default/{name}"));
        let server_secrets = write_secrets(&authority, &services.each_ref().map(String::as_str));
        let server_input = format!("{input}\nproxy: server-0.demo\n");
        let server = start_proxy(&server_input, server_secrets.path(), &HashMap::new());

        // The other two endpoints keep their ports, so the client connects to the dead addresses.
        let served_by_sidecar = [web, locked, half, closed]
            .into_iter()
            .chain(lost)
            .chain(sticky)
            .chain(aborting)
            .chain([limited]);
        let bound_ports = served_by_sidecar.map(|address| {
            (
                address.port(),
                server.address_of(&format!("inbound:{address}")).port(),
            )
        });
        let client_secrets = write_secrets(&authority, &[CLIENT_ID, "kuma://app/client"]);
        let client_input = format!("{input}\nproxy: client-0.demo\n");
        let client = start_proxy(&client_input, client_secrets.path(), &bound_ports.collect());
        Self {
            application,
            server,
            client,
            web,
            sticky: sticky_inbounds,
            _dead: dead,
            _secrets: [server_secrets, client_secrets],
        }
    }

    /// Returns the address at which the client's sidecar accepts connections to a service, by its index in
    /// [`SERVICES`].
    fn outbound(&self, service: usize) -> SocketAddr {
        self.client
            .address_of(&format!("outbound:{}", SERVICES[service].1))
    }
}

/// Returns the mesh as YAML for [`Input::parse`], without the key `proxy`. `inbounds` has the index in [`SERVICES`] and
/// the address of each inbound. `outside` is the address of a server without a sidecar.
fn mk_input(mode: &str, inbounds: &[(usize, SocketAddr)], outside: SocketAddr) -> String {
    let inbound = |(index, address): &(usize, SocketAddr)| {
        let protocol = if [LOST_TCP, STICKY_TCP].contains(index) {
            "tcp"
        } else if *index == LIMITED {
            "http2"
        } else {
            "http"
        };
        let (port, service) = (address.port(), SERVICES[*index].0);
        format!(
            "      - {{ port: {port}, tags: {{ kuma.io/service: {service}, kuma.io/protocol: {protocol} }} }}\n"
        )
    };
    let web = inbounds.iter().find(|(index, _)| *index == WEB);
    let web_port = web.map(|(_, address)| address.port()).unwrap_or_default();
    let inbounds: String = inbounds.iter().map(inbound).collect();
    let services: String = SERVICES
        .map(|(name, address)| {
            let options = if name.starts_with("sticky") {
                ", balancing: ByClient".to_owned()
            } else if name == SERVICES[LISTED].0 {
                let web = SERVICES[WEB].0;
                format!(
                    ", sliceEndpoints: [{{ address: \"127.0.0.1:{web_port}\", identity: {web} }}, \
                     {{ address: \"{outside}\" }}]"
                )
            } else {
                String::new()
            };
            format!("  {name}: {{ addresses: [\"{address}\"]{options} }}\n")
        })
        .concat();
    format!(
        "mtls: {mode}
permissions:
  - rules: [{{ tags: {{ app: client }}, action: Allow }}]
  - target: {{ kuma.io/service: web_demo_svc_80 }}
    rules: [{{ action: Allow }}]
  - target: {{ kuma.io/service: locked_demo_svc_80 }}
    rules: [{{ service: client_demo_svc, action: Deny }}, {{ service: friend_demo_svc, action: Allow }}]
services:
{services}dataplanes:
  client-0.demo: {{ address: 127.0.0.9 }}
  server-0.demo:
    address: 127.0.0.1
    probes: [{{ port: {web_port}, path: /health }}]
    inbound:
{inbounds}"
    )
}

/// Returns the response to a GET through a TCP proxy. Closes the sending side after the request, so that the server
/// closes the connection after the response.
fn get_over_tcp(address: SocketAddr) -> String {
    let mut connection = TcpStream::connect(address).expect("a connection");
    let timeout = Some(Duration::from_mins(1));
    connection.set_read_timeout(timeout).expect("a timeout");
    connection
        .write_all(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n")
        .expect("a request");
    connection
        .shutdown(std::net::Shutdown::Write)
        .expect("an open socket");
    let mut response = String::new();
    let _ = connection.read_to_string(&mut response);
    response
}

/// Opens a port that forwards connections to the application, and returns its address.
fn forward_to(application: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for downstream in listener.incoming().map_while(Result::ok) {
            // Envoy must connect from the address that the redirection rules exempt.
            assert_eq!(
                downstream.peer_addr().expect("a peer").ip().to_string(),
                "127.0.0.6"
            );
            let upstream = TcpStream::connect(application).expect("the application");
            for (mut from, mut to) in [
                (
                    downstream.try_clone().expect("a socket"),
                    upstream.try_clone().expect("a socket"),
                ),
                (upstream, downstream),
            ] {
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(std::net::Shutdown::Write);
                });
            }
        }
    });
    address
}

/// Starts an application that closes each connection in the middle of the response, or after the upgrade to a
/// WebSocket. Returns its address.
fn start_aborting_application() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for mut connection in listener.incoming().map_while(Result::ok) {
            let mut request = [0; 4096];
            let length = connection.read(&mut request).unwrap_or_default();
            let is_upgrade = String::from_utf8_lossy(&request[..length]).contains("upgrade: websocket");
            let response: &[u8] = if is_upgrade {
                b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n"
            } else {
                b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\npart"
            };
            let _ = connection.write_all(response);
        }
    });
    address
}

/// Starts an HTTP/2 application that ends its first connection at the first request: its GOAWAY frame says that it has
/// processed no stream. The application responds with 200 to requests on other connections. Returns its address.
fn start_limited_application() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for (index, connection) in listener.incoming().map_while(Result::ok).enumerate() {
            std::thread::spawn(move || serve_http2(connection, index == 0));
        }
    });
    address
}

/// Serves an HTTP/2 connection until the client closes it.
fn serve_http2(mut connection: TcpStream, refuses: bool) -> std::io::Result<()> {
    const HEADERS: u8 = 1;
    const SETTINGS: u8 = 4;
    const GOAWAY: u8 = 7;
    const ACK: u8 = 1;
    const END_STREAM_AND_HEADERS: u8 = 5;
    const CLIENT_PREFACE_LENGTH: usize = 24;
    // Length (3 bytes), type, flags, stream ID (4 bytes).
    let frame = |kind: u8, flags: u8, stream: [u8; 4], payload: &[u8]| {
        let length = u8::try_from(payload.len()).expect("a short payload");
        [&[0, 0, length, kind, flags][..], &stream, payload].concat()
    };
    connection.read_exact(&mut [0; CLIENT_PREFACE_LENGTH])?;
    connection.write_all(&frame(SETTINGS, 0, [0; 4], &[]))?;
    loop {
        let mut head = [0; 9];
        connection.read_exact(&mut head)?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        connection.read_exact(&mut payload)?;
        let response = match kind {
            SETTINGS if flags & ACK == 0 => frame(SETTINGS, ACK, [0; 4], &[]),
            // Last processed stream 0, no error.
            HEADERS if refuses => frame(GOAWAY, 0, [0; 4], &[0; 8]),
            // The indexed field `:status: 200`.
            HEADERS => frame(HEADERS, END_STREAM_AND_HEADERS, stream, &[0x88]),
            _ => continue,
        };
        connection.write_all(&response)?;
    }
}

#[test]
fn application_receives_the_verified_identity_of_its_caller() {
    let mesh = TestMesh::start("STRICT");
    let response = send(
        mesh.outbound(WEB),
        "GET /hello HTTP/1.1\r\nhost: web\r\nx-kuma-tags: forged\r\n\
         x-forwarded-client-cert: URI=spiffe://default/forged\r\nconnection: close\r\n\r\n",
    );
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    assert!(
        response.contains(&format!("uri={CLIENT_ID}")),
        "the response does not name the caller: {response}"
    );
    assert!(!response.contains("forged"), "{response}");
}

#[test]
fn response_to_a_denied_request_names_sidecar_caller_and_mesh() {
    let mesh = TestMesh::start("STRICT");
    let response = get(mesh.outbound(LOCKED), "/");
    assert!(response.starts_with("HTTP/1.1 403"), "{response}");
    let sentence = "the sidecar of Pod demo/server-0 denied the request to locked_demo_svc_80: no \
                    MeshTrafficPermission allows the caller with the identity";
    for text in [sentence, CLIENT_ID, "Mesh default"] {
        assert!(response.contains(text), "the response lacks {text:?}: {response}");
    }
    let grpc_response = send(
        mesh.outbound(LOCKED),
        "POST /shop.Cart/Get HTTP/1.1\r\nhost: locked\r\ncontent-type: application/grpc\r\n\
         content-length: 0\r\nconnection: close\r\n\r\n",
    );
    for text in ["grpc-status: 7", "grpc-message: the sidecar of Pod demo/server-0"] {
        assert!(
            grpc_response.contains(text),
            "the gRPC response lacks {text:?}: {grpc_response}"
        );
    }
    assert_eq!(mesh.application.request_count(), 0);
    assert_eq!(mesh.server.counter_sum("http.*rbac.denied"), 2);
}

#[test]
fn plain_text_is_rejected_in_strict_and_accepted_in_permissive_mode() {
    for (mode, is_rejected) in [("STRICT", true), ("PERMISSIVE", false)] {
        let mesh = TestMesh::start(mode);
        let plain_response = get(mesh.server.address_of(&format!("inbound:{}", mesh.web)), "/");
        assert_eq!(plain_response.is_empty(), is_rejected, "{mode}: {plain_response}");
        let mtls_response = get(mesh.outbound(WEB), "/");
        assert!(
            mtls_response.starts_with("HTTP/1.1 200"),
            "{mode}: {mtls_response}"
        );
    }
}

#[test]
fn endpoint_in_a_slice_is_called_over_mtls_if_it_has_an_identity_and_in_plain_text_otherwise() {
    let mesh = TestMesh::start("STRICT");
    let mut over_mtls = 0;
    for _ in 0..4 {
        let response = get(mesh.outbound(LISTED), "/");
        assert!(response.starts_with("HTTP/1.1 200"), "{response}");
        // The sidecar of the server adds the identity of the caller.
        over_mtls += usize::from(response.contains(&format!("uri={CLIENT_ID}")));
    }
    assert_eq!(over_mtls, 2, "the two endpoints get requests in turn");
}

#[test]
fn request_to_a_stopped_application_is_retried_at_another_endpoint() {
    let mesh = TestMesh::start("STRICT");
    let address = mesh.outbound(HALF);
    for _ in 0..20 {
        let request =
            "POST /order HTTP/1.1\r\nhost: half\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi";
        let response = send(address, request);
        assert!(response.starts_with("HTTP/1.1 200"), "{response}");
        assert!(!response.contains("x-kermode-undelivered"), "{response}");
    }
    assert_eq!(mesh.application.request_count(), 20);
    assert!(
        mesh.client
            .counter_sum("cluster.half_demo_svc_80.upstream_rq_retry")
            > 0
    );
}

#[test]
fn endpoint_on_a_dead_node_costs_a_client_one_connection_attempt_by_tcp_and_two_by_http() {
    let mesh = TestMesh::start("STRICT");
    for (service, cluster, attempts) in [
        (LOST, "lost_demo_svc_80", 2),
        (LOST_TCP, "lost-tcp_demo_svc_80", 1),
    ] {
        let address = mesh.outbound(service);
        for _ in 0..20 {
            let response = if service == LOST_TCP {
                get_over_tcp(address)
            } else {
                get(address, "/")
            };
            assert!(response.starts_with("HTTP/1.1 200"), "{cluster}: {response}");
        }
        let count = |counter: &str| mesh.client.counter_sum(&format!("cluster.{cluster}.{counter}"));
        assert_eq!(count("upstream_cx_connect_timeout"), attempts, "{cluster}");
        assert_eq!(
            count("outlier_detection.ejections_enforced_consecutive_local_origin_failure"),
            1,
            "{cluster}"
        );
    }
}

#[test]
fn endpoints_whose_application_aborts_responses_or_closes_websockets_are_not_ejected() {
    let mesh = TestMesh::start("STRICT");
    for (request, status) in [
        ("GET / HTTP/1.1\r\nhost: web\r\n\r\n", "200"),
        (WEBSOCKET_REQUEST, "101"),
    ] {
        for _ in 0..8 {
            let response = send(mesh.outbound(ABORTING), request);
            assert!(response.starts_with(&format!("HTTP/1.1 {status}")), "{response}");
        }
    }
    let count = |counter: &str| {
        mesh.client
            .counter_sum(&format!("cluster.aborting_demo_svc_80.{counter}"))
    };
    assert_eq!(
        count("upstream_rq_total"),
        16,
        "aborted responses are not retried"
    );
    assert_eq!(count("outlier_detection.ejections_enforced_total"), 0);
}

#[test]
fn request_whose_stream_the_application_refuses_is_retried_by_the_servers_sidecar() {
    let mesh = TestMesh::start("STRICT");
    let response = get(mesh.outbound(LIMITED), "/");
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    assert_eq!(
        mesh.server.counter_sum("cluster.localhost_.*.upstream_rq_retry"),
        1
    );
}

#[test]
fn client_of_a_service_with_session_affinity_stays_at_one_endpoint() {
    let mesh = TestMesh::start("STRICT");
    for service in [STICKY, STICKY_TCP] {
        for _ in 0..12 {
            let address = mesh.outbound(service);
            let response = if service == STICKY_TCP {
                get_over_tcp(address)
            } else {
                get(address, "/")
            };
            assert!(response.starts_with("HTTP/1.1 200"), "{response}");
        }
        let used = mesh.sticky.iter().filter(|(index, address)| {
            let counter = format!("cluster.localhost_{}.upstream_cx_total", address.port());
            *index == service && mesh.server.counter_sum(&counter) > 0
        });
        assert_eq!(used.count(), 1, "{}", SERVICES[service].0);
    }
}

#[test]
fn websocket_passes_through_both_sidecars() {
    let mesh = TestMesh::start("STRICT");
    let mut socket = TcpStream::connect(mesh.outbound(WEB)).expect("a connection");
    socket.write_all(WEBSOCKET_REQUEST.as_bytes()).expect("a request");
    let mut response = Vec::new();
    let mut byte = [0];
    while !response.ends_with(b"\r\n\r\n") {
        socket
            .read_exact(&mut byte)
            .unwrap_or_else(|_| panic!("the response ends early: {}", String::from_utf8_lossy(&response)));
        response.push(byte[0]);
    }
    assert!(
        response.starts_with(b"HTTP/1.1 101"),
        "{}",
        String::from_utf8_lossy(&response)
    );
    socket.write_all(b"x").expect("an open socket");
    socket.read_exact(&mut byte).expect("an echo");
    assert_eq!(&byte, b"x");
}

#[test]
fn http_1_0_requests_with_and_without_a_host_header_get_a_response() {
    let mesh = TestMesh::start("PERMISSIVE");
    let inbound = mesh.server.address_of(&format!("inbound:{}", mesh.web));
    let probes = mesh.server.address_of("probe:listener");
    let probe_path = format!("/{}/health", mesh.web.port());
    let addresses = [
        (mesh.outbound(WEB), "/old", SERVICES[WEB].1),
        (inbound, "/old", &mesh.web.to_string()),
        (probes, &*probe_path, "127.0.0.1:9000"),
    ];
    for (address, path, default_host) in addresses {
        for (header, host) in [("host: web\r\n", "web"), ("", default_host)] {
            let response = send(address, &format!("GET {path} HTTP/1.0\r\n{header}\r\n"));
            let status = response.lines().next().unwrap_or_default();
            assert!(status.ends_with(" 200 OK"), "{address}: {response}");
            assert!(
                response.contains(&format!("host: {host}\r\n")),
                "{address}: {response}"
            );
        }
    }
}
