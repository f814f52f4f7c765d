//! A pod, a client and a server, each in its own network namespace, with simulated servers for Envoy and the application.
//!
//! ```text
//! client 10.1.1.1, fd01::1 ── pod 10.1.1.2, fd01::2 · 10.1.2.2, fd02::2 ── server 10.1.2.1, fd02::1
//! ```

mod namespace;
mod simulated_server;
mod socket;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use kermode_netfilter::{AppliedRules, Nft, TrafficConfig, set_up};

pub(crate) use namespace::Namespace;
use simulated_server::SimulatedServer;
pub(crate) use socket::{Transport, request, request_from};

/// UID of the application.
pub(crate) const APP: u32 = 1000;
/// UID of the proxy.
pub(crate) const PROXY: u32 = TrafficConfig::DEFAULT_PROXY_UID;
/// IPv4 address of the pod for the client, with the application's port.
pub(crate) const POD: &str = "10.1.1.2:8080";
/// IPv6 address of the pod for the client, with the application's port.
pub(crate) const POD_V6: &str = "[fd01::2]:8080";

/// The three namespaces. Dropping it stops the simulated servers and frees the namespaces.
pub(crate) struct NetnsLab {
    pub(crate) pod: Namespace,
    client: Namespace,
    /// Simulated servers, which also keep the server's namespace alive.
    _servers: Vec<SimulatedServer>,
}

/// Whether the namespaces have IPv6 addresses.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ipv6 {
    Addresses,
    Absent,
}

impl NetnsLab {
    /// Creates a pod with both families and without rules.
    pub(crate) fn bare() -> Self {
        Self::build(Ipv6::Addresses, PROXY)
    }

    /// Creates a pod with both families and the rules of the settings.
    pub(crate) fn new(config: &TrafficConfig) -> Self {
        let lab = Self::build(Ipv6::Addresses, config.proxy_uid);
        lab.apply(config);
        lab
    }

    /// Creates a pod without any IPv6 address, including link-local ones, and without rules.
    pub(crate) fn without_ipv6() -> Self {
        Self::build(Ipv6::Absent, PROXY)
    }

    fn build(ipv6: Ipv6, proxy: u32) -> Self {
        let (client, pod, server) = (Namespace::new(), Namespace::new(), Namespace::new());
        connect(&client, &pod, "eth0", "1");
        connect(&server, &pod, "eth1", "2");
        pod.ip("route add default via 10.1.2.1");
        client.ip("route add default via 10.1.1.2");
        if ipv6 == Ipv6::Addresses {
            for (namespace, interface, address) in [
                (&client, "peer", "fd01::1"),
                (&pod, "eth0", "fd01::2"),
                (&pod, "eth1", "fd02::2"),
                (&server, "peer", "fd02::1"),
            ] {
                namespace.ip(&format!("addr add {address}/64 dev {interface} nodad"));
            }
            pod.ip("-6 route add default via fd02::1");
        }
        let servers = simulated_servers(&pod, &server, proxy);
        Self {
            client,
            pod,
            _servers: servers,
        }
    }

    /// Applies the rules like `kuma-init`.
    pub(crate) fn apply(&self, config: &TrafficConfig) -> AppliedRules {
        let applied = self
            .pod
            .run(|| set_up(config, &Nft::default()))
            .expect("the rules are accepted");
        assert_eq!(applied.warning, None);
        applied
    }

    /// Connects as a user of the pod over TCP; returns the response.
    pub(crate) fn tcp(&self, uid: u32, target: &str) -> String {
        request(&self.pod, uid, Transport::Tcp, target)
    }

    /// Sends a query as a user of the pod over UDP; returns the response.
    pub(crate) fn udp(&self, uid: u32, target: &str) -> String {
        request(&self.pod, uid, Transport::Udp, target)
    }

    /// Connects from the client over TCP; returns the response.
    pub(crate) fn client(&self, target: &str) -> String {
        request(&self.client, 0, Transport::Tcp, target)
    }

    /// Sends a query from the client over UDP; returns the response.
    pub(crate) fn client_udp(&self, target: &str) -> String {
        request(&self.client, 0, Transport::Udp, target)
    }
}

/// Connects a namespace and the pod by a veth pair: `peer` and the named interface, addresses `10.1.<net>.1` and `.2`.
fn connect(other: &Namespace, pod: &Namespace, interface: &str, net: &str) {
    other.ip(&format!(
        "link add peer type veth peer name {interface} netns {}",
        pod.path()
    ));
    for (namespace, interface, host) in [(other, "peer", "1"), (pod, interface, "2")] {
        // A pod without IPv6 must not have link-local addresses.
        namespace.ip(&format!("link set {interface} addrgenmode none"));
        namespace.ip(&format!("link set {interface} up"));
        namespace.ip(&format!("addr add 10.1.{net}.{host}/24 dev {interface}"));
    }
}

fn simulated_servers(pod: &Namespace, server: &Namespace, proxy: u32) -> Vec<SimulatedServer> {
    let any = |port: u16| SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
    let mut servers = Vec::new();
    for (name, port) in [
        ("outbound", 15001),
        ("inbound", 15006),
        ("inbound-v6", 15010),
        ("dns", 15053),
    ] {
        servers.push(SimulatedServer::tcp(pod, proxy, name, any(port)));
    }
    // A UDP server on the unspecified address responds from the address that routing selects. Connection tracking would not
    // match such a response to the redirected query.
    let towards_client = Ipv4Addr::new(10, 1, 1, 2);
    for address in [
        IpAddr::from(Ipv4Addr::LOCALHOST),
        Ipv6Addr::LOCALHOST.into(),
        towards_client.into(),
    ] {
        servers.push(SimulatedServer::udp(
            pod,
            proxy,
            "dns",
            SocketAddr::new(address, 15053),
        ));
    }
    for port in [8080, 9000] {
        servers.push(SimulatedServer::tcp(pod, APP, "app", any(port)));
    }
    for port in [53, 80, 443, 2000] {
        servers.push(SimulatedServer::tcp(server, 0, "server", any(port)));
    }
    for port in [53, 443] {
        servers.push(SimulatedServer::udp(server, 0, "server", any(port)));
    }
    servers
}
