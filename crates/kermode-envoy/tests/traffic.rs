//! Tests of requests through two real Envoys on loopback: the sidecar of a client and the sidecar of a server.
//!
//! Some parts of the generated resources work only in a Pod, so the tests replace them. Listeners bind free ports
//! instead of receiving redirected connections. Secrets come from files instead of `kuma-dp`. Endpoints are part of
//! their clusters, with the ports that the listeners are bound to.

#![allow(clippy::expect_used, clippy::panic, reason = "a panic fails the test")]

mod support;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;

use kermode_envoy::{Resource, ResourceKind};
use serde_json::{Value, json};
use support::certificates::Authority;
use support::input::Input;
use support::process::{Application, RunningEnvoy, get, send};
use support::secrets::{for_each_child, read_secrets_from_files, write_secrets};
use support::{envoy, readable};
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
    _secrets: [TempDir; 2],
}

/// Names and addresses of the services: `web`, which allows all callers; `locked`, which allows only a caller that does
/// not exist; and `half`, which has two endpoints, one of them without an application. `half` allows callers with the
/// tag `app: client`, which the client has.
const SERVICES: [(&str, &str); 3] = [
    ("web_demo_svc_80", "10.96.0.1:80"),
    ("locked_demo_svc_80", "10.96.0.2:80"),
    ("half_demo_svc_80", "10.96.0.3:80"),
];
/// Index of `web` in [`SERVICES`].
const WEB: usize = 0;
/// Index of `locked` in [`SERVICES`].
const LOCKED: usize = 1;
/// Index of `half` in [`SERVICES`].
const HALF: usize = 2;

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
        let input = mk_input(mode, web, locked, half, closed);

        let authority = Authority::new();
        let services = SERVICES.map(|(name, _)| format!("spiffe://default/{name}"));
        let server_secrets = write_secrets(&authority, &services.each_ref().map(String::as_str));
        let server_input = format!("{input}\nproxy: server-0.demo\n");
        let server = start_proxy(&server_input, server_secrets.path(), &HashMap::new());

        let bound_ports = [web, locked, half, closed].map(|address| {
            (
                address.port(),
                server.address_of(&format!("inbound:{address}")).port(),
            )
        });
        let client_secrets = write_secrets(&authority, &[CLIENT_ID, "kuma://app/client"]);
        let client_input = format!("{input}\nproxy: client-0.demo\n");
        let client = start_proxy(&client_input, client_secrets.path(), &HashMap::from(bound_ports));
        Self {
            application,
            server,
            client,
            web,
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

/// Returns the mesh as YAML for [`Input::parse`], without the key `proxy`. `web`, `locked` and `half` are the addresses
/// of the inbounds of these services. `closed` is the second endpoint of `half`, on which nothing listens.
fn mk_input(mode: &str, web: SocketAddr, locked: SocketAddr, half: SocketAddr, closed: SocketAddr) -> String {
    let inbound = |address: SocketAddr, service: &str| {
        let port = address.port();
        format!(
            "      - {{ port: {port}, tags: {{ kuma.io/service: {service}, kuma.io/protocol: http }} }}\n"
        )
    };
    let inbounds = [
        inbound(web, SERVICES[WEB].0),
        inbound(locked, SERVICES[LOCKED].0),
        inbound(half, SERVICES[HALF].0),
        inbound(closed, SERVICES[HALF].0),
    ]
    .concat();
    let services: String = SERVICES
        .map(|(name, address)| format!("  {name}: {{ addresses: [\"{address}\"] }}\n"))
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
    probes: [{{ inboundPort: {}, inboundPath: /health, path: /probe }}]
    inbound:
{inbounds}",
        web.port()
    )
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

/// Starts the Envoy of the proxy that `input` names. `ports` maps the port of each generated endpoint to the port that
/// the inbound listener of the endpoint is bound to in this test.
fn start_proxy(input: &str, secrets: &Path, ports: &HashMap<u16, u16>) -> RunningEnvoy {
    let input = Input::parse(input);
    // These tests need neither passthrough nor the admin listener.
    let resources: Vec<_> = input
        .resources()
        .into_iter()
        .filter(|resource| !resource.name.contains("passthrough") && !resource.name.contains("admin"))
        .collect();
    let endpoints: HashMap<_, _> = resources
        .iter()
        .filter(|resource| resource.kind == ResourceKind::Endpoints)
        .map(|resource| (resource.name.clone(), readable::json(resource)))
        .collect();
    let other_resources: Vec<Resource> = resources
        .into_iter()
        .filter(|resource| resource.kind != ResourceKind::Endpoints)
        .collect();
    let bootstrap = envoy::mk_bootstrap(input.proxy(), 0, Path::new("/unused.sock"));
    let mut config = envoy::with_static_resources(bootstrap, &other_resources);
    config
        .as_object_mut()
        .expect("an object")
        .remove("dynamic_resources");
    for cluster in config["static_resources"]["clusters"]
        .as_array_mut()
        .expect("clusters")
    {
        if cluster["type"] == "EDS" {
            cluster["type"] = json!("STATIC");
            cluster
                .as_object_mut()
                .expect("an object")
                .remove("edsClusterConfig");
            let mut assignment = endpoints[cluster["name"].as_str().expect("a name")].clone();
            replace_ports(&mut assignment, ports);
            cluster["loadAssignment"] = assignment;
        }
    }
    for listener in config["static_resources"]["listeners"]
        .as_array_mut()
        .expect("listeners")
    {
        listener.as_object_mut().expect("an object").remove("bindToPort");
        listener["address"] = json!({ "socket_address": { "address": "127.0.0.1", "port_value": 0 } });
    }
    read_secrets_from_files(&mut config, secrets);
    RunningEnvoy::start(&config)
}

/// Replaces the ports of endpoints, at any depth of the value.
fn replace_ports(value: &mut Value, ports: &HashMap<u16, u16>) {
    if let Some(port) = value.get_mut("portValue") {
        let generated_port = port
            .as_u64()
            .and_then(|port| u16::try_from(port).ok())
            .expect("a port");
        *port = json!(ports.get(&generated_port).unwrap_or(&generated_port));
    }
    for_each_child(value, &mut |child| replace_ports(child, ports));
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
fn request_of_a_denied_caller_does_not_reach_the_application() {
    let mesh = TestMesh::start("STRICT");
    let response = get(mesh.outbound(LOCKED), "/");
    assert!(response.starts_with("HTTP/1.1 503"), "{response}");
    assert_eq!(mesh.application.request_count(), 0);
    assert!(mesh.server.counter_sum("inbound_.*rbac.denied") > 0);
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
fn websocket_passes_through_both_sidecars() {
    let mesh = TestMesh::start("STRICT");
    let mut socket = TcpStream::connect(mesh.outbound(WEB)).expect("a connection");
    socket
        .write_all(
            b"GET /ws HTTP/1.1\r\nhost: web\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
              sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n",
        )
        .expect("a request");
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
    let addresses = [
        (mesh.outbound(WEB), "/old", SERVICES[WEB].1),
        (inbound, "/old", &mesh.web.to_string()),
        (probes, "/probe", "127.0.0.1:9000"),
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
