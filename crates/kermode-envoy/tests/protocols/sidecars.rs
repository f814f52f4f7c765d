//! The sidecars of a client and of a server, and applications behind them. The addresses of a test are all IPv4 or all
//! IPv6, like those of its applications.

use std::collections::HashMap;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::TIMEOUT;
use crate::support::certificates::Authority;
use crate::support::process::RunningEnvoy;
use crate::support::secrets::write_secrets;
use crate::support::sidecar::{DIRECT_ACCESS, mk_config, start_proxy};

/// The sidecars of a client and of a server. The server has one application for each service.
pub(crate) struct Sidecars {
    pub(crate) client: RunningEnvoy,
    pub(crate) server: RunningEnvoy,
    /// Address of each service.
    services: Vec<SocketAddr>,
    /// Address of the application of each service.
    applications: Vec<SocketAddr>,
    _secrets: [TempDir; 2],
}

impl Sidecars {
    /// Starts the sidecars for services, each with its protocol and the address of its application.
    pub(crate) fn start(services: &[(&str, SocketAddr)]) -> Self {
        Self::start_with(services, |_| {})
    }

    /// Starts the sidecars for services. `change` changes the configuration of the client's sidecar.
    pub(crate) fn start_with(services: &[(&str, SocketAddr)], change: impl FnOnce(&mut Value)) -> Self {
        let input = mk_input(services);
        let authority = Authority::new();
        let identities: Vec<_> = services
            .iter()
            .map(|(protocol, _)| format!("spiffe://default/{protocol}_demo_svc_80"))
            .collect();
        let identities: Vec<_> = identities.iter().map(String::as_str).collect();
        let secrets = [
            write_secrets(&authority, &identities),
            write_secrets(&authority, &["spiffe://default/client_demo_svc"]),
        ];
        let server = start_proxy(
            &format!("{input}proxy: server-0.demo\n"),
            secrets[0].path(),
            &HashMap::new(),
        );
        let bound_port = |(_, address): &(&str, SocketAddr)| {
            let inbound = server.address_of(&format!("inbound:{address}"));
            (address.port(), inbound.port())
        };
        let bound_ports = services.iter().map(bound_port).collect();
        let mut client = mk_config(
            &format!("{input}proxy: client-0.demo\n"),
            secrets[1].path(),
            &bound_ports,
        );
        add_direct_listeners(&mut client);
        change(&mut client);
        let client = RunningEnvoy::start(&client);
        Self {
            client,
            server,
            services: cluster_addresses(services).collect(),
            applications: services.iter().map(|(_, application)| *application).collect(),
            _secrets: secrets,
        }
    }

    /// Starts the sidecars for a single service. Returns them with the address that the client connects to.
    pub(crate) fn start_one(protocol: &str, application: SocketAddr) -> (Self, SocketAddr) {
        let sidecars = Self::start(&[(protocol, application)]);
        let address = sidecars.outbound(0);
        (sidecars, address)
    }

    /// Returns the address at which the client's sidecar accepts connections to the service with this index.
    pub(crate) fn outbound(&self, index: usize) -> SocketAddr {
        self.client
            .address_of(&format!("outbound:{}", self.services[index]))
    }
}

impl Sidecars {
    /// Returns the address at which the client's sidecar accepts connections to the Pod of the service with this index.
    pub(crate) fn direct(&self, index: usize) -> SocketAddr {
        let application = self.applications[index];
        self.client.address_of(&format!("{DIRECT_ACCESS}{application}"))
    }
}

/// Adds a listener for each cluster of direct access. In a Pod, the outbound passthrough listener selects the cluster by
/// the original destination of a connection; here, no connection is redirected.
fn add_direct_listeners(client: &mut Value) {
    let clusters = client["static_resources"]["clusters"].as_array();
    let names = clusters
        .into_iter()
        .flatten()
        .filter_map(|cluster| cluster["name"].as_str());
    let direct = names.filter(|name| name.starts_with(DIRECT_ACCESS));
    let listeners: Vec<_> = direct
        .map(|name| {
            let proxy = json!({
                "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                "stat_prefix": name,
                "cluster": name,
            });
            let filter = json!({ "name": "envoy.filters.network.tcp_proxy", "typed_config": proxy });
            json!({
                "name": name,
                "address": { "socket_address": { "address": "127.0.0.1", "port_value": 0 } },
                "filter_chains": [{ "filters": [filter] }],
            })
        })
        .collect();
    let all = client["static_resources"]["listeners"].as_array_mut();
    all.expect("listeners").extend(listeners);
}

/// Returns the ClusterIP and the port of each service.
fn cluster_addresses(services: &[(&str, SocketAddr)]) -> impl Iterator<Item = SocketAddr> {
    services.iter().zip(1..).map(|((_, application), number)| {
        let ip = if application.is_ipv4() {
            IpAddr::from([10, 96, 0, number])
        } else {
            IpAddr::from([0xfd00, 0x96, 0, 0, 0, 0, 0, number.into()])
        };
        SocketAddr::new(ip, 80)
    })
}

/// Returns the mesh as YAML for [`Input::parse`], without the key `proxy`. The name of a service is its protocol.
pub(crate) fn mk_input(services: &[(&str, SocketAddr)]) -> String {
    let address = |((protocol, _), address): (&(&str, SocketAddr), SocketAddr)| {
        format!("  {protocol}_demo_svc_80: {{ addresses: [\"{address}\"] }}\n")
    };
    let inbound = |(protocol, application): &(&str, SocketAddr)| {
        let service = format!("{protocol}_demo_svc_80");
        let port = application.port();
        format!(
            "      - {{ port: {port}, tags: {{ kuma.io/service: {service}, kuma.io/protocol: {protocol} }} }}\n"
        )
    };
    let addresses: String = services
        .iter()
        .zip(cluster_addresses(services))
        .map(address)
        .collect();
    let inbounds: String = services.iter().map(inbound).collect();
    let [client, server] = if services[0].1.is_ipv4() {
        ["127.0.0.9", "127.0.0.1"]
    } else {
        ["\"::9\"", "\"::1\""]
    };
    format!(
        "mtls: STRICT\nservices:\n{addresses}dataplanes:\n  client-0.demo: \
         {{ address: {client}, directAccessServices: [\"*\"] }}\n  \
         server-0.demo:\n    address: {server}\n    inbound:\n{inbounds}"
    )
}

pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(address).expect("a connection");
    socket.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
    socket
}

/// Reads until the received bytes end with `end`. Panics if the connection ends earlier.
pub(crate) fn read_until(socket: &mut TcpStream, end: &[u8]) -> Vec<u8> {
    let mut received = Vec::new();
    let mut chunk = vec![0; 1 << 16];
    while !received.ends_with(end) {
        let length = socket.read(&mut chunk).unwrap_or_default();
        assert!(
            length > 0,
            "the connection ends before {:?}: {}",
            String::from_utf8_lossy(end),
            String::from_utf8_lossy(&received)
        );
        received.extend(&chunk[..length]);
    }
    received
}

pub(crate) fn read_text(socket: &mut TcpStream, end: &str) -> String {
    String::from_utf8_lossy(&read_until(socket, end.as_bytes())).into_owned()
}

pub(crate) fn read_to_end(socket: &mut TcpStream) -> String {
    let mut received = Vec::new();
    let _ = socket.read_to_end(&mut received);
    String::from_utf8_lossy(&received).into_owned()
}

/// Listens at a free port and runs `serve` for each connection, in a thread of its own.
pub(crate) fn start_application(serve: impl Fn(&mut TcpStream) + Clone + Send + 'static) -> SocketAddr {
    start_application_at(Ipv4Addr::LOCALHOST.into(), serve)
}

/// Like [`start_application`], at this address.
pub(crate) fn start_application_at(
    ip: IpAddr,
    serve: impl Fn(&mut TcpStream) + Clone + Send + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind((ip, 0)).expect("a free port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for mut connection in listener.incoming().map_while(Result::ok) {
            let serve = serve.clone();
            std::thread::spawn(move || serve(&mut connection));
        }
    });
    address
}
