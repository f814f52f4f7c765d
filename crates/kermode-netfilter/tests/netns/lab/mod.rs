//! A pod, a client and a server, each in its own network namespace. Simulated servers stand in for Envoy, for the
//! application and for remote servers. The module [`simulated_server`] describes their responses.
//!
//! ```text
//! client 10.1.1.1, fd01::1 ── pod 10.1.1.2, fd01::2 · 10.1.2.2, fd02::2 ── server 10.1.2.1, fd02::1
//! ```

mod namespace;
mod simulated_server;
mod socket;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use kermode_netfilter::{AppliedRules, Nft, TrafficConfig, set_up};

pub(crate) use namespace::Namespace;
use simulated_server::SimulatedServer;
use socket::ping;
pub(crate) use socket::{Transport, request, request_from};

/// UID of the application.
pub(crate) const APP_UID: u32 = 1000;
/// UID of the proxy.
pub(crate) const PROXY_UID: u32 = TrafficConfig::DEFAULT_PROXY_UID;
/// Address at which the client reaches the application over IPv4.
pub(crate) const APP_ADDRESS: &str = "10.1.1.2:8080";
/// Address at which the client reaches the application over IPv6.
pub(crate) const APP_ADDRESS_V6: &str = "[fd01::2]:8080";
/// IPv4 address of a Service, which no interface has.
pub(crate) const CLUSTER_IP: &str = "10.96.0.10";
/// IPv6 address of a Service, which no interface has.
pub(crate) const CLUSTER_IP_V6: &str = "fd96::10";

/// The three namespaces. Dropping the lab stops the simulated servers and frees the namespaces.
pub(crate) struct NetnsLab {
    pub(crate) pod: Namespace,
    client: Namespace,
    server: Namespace,
    _servers: Vec<SimulatedServer>,
}

/// Whether the namespaces have IPv6 addresses.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ipv6 {
    Present,
    Absent,
}

impl NetnsLab {
    /// Creates a lab whose pod has both IP families and no rules.
    pub(crate) fn without_rules() -> Self {
        Self::build(Ipv6::Present, PROXY_UID)
    }

    /// Creates a lab whose pod has both IP families and the rules of the settings.
    pub(crate) fn with_rules(config: &TrafficConfig) -> Self {
        let lab = Self::build(Ipv6::Present, config.proxy_uid);
        lab.apply(config);
        lab
    }

    /// Creates a lab whose pod has no rules and no IPv6 address, not even a link-local address.
    pub(crate) fn without_ipv6() -> Self {
        Self::build(Ipv6::Absent, PROXY_UID)
    }

    fn build(ipv6: Ipv6, proxy_uid: u32) -> Self {
        let client = Namespace::new();
        let pod = Namespace::new();
        let server = Namespace::new();
        link_to_pod(&client, &pod, "eth0", "1");
        link_to_pod(&server, &pod, "eth1", "2");
        pod.ip("route add default via 10.1.2.1");
        client.ip("route add default via 10.1.1.2");
        if ipv6 == Ipv6::Present {
            for (namespace, interface, address) in [
                (&client, "peer", "fd01::1"),
                (&pod, "eth0", "fd01::2"),
                (&pod, "eth1", "fd02::2"),
                (&server, "peer", "fd02::1"),
            ] {
                namespace.ip(&format!("addr add {address}/64 dev {interface} nodad"));
            }
            pod.ip("-6 route add default via fd02::1");
            wait_until_local(&pod, "fd01::2");
            wait_until_local(&pod, "fd02::2");
        }
        let servers = start_servers(&pod, &server, proxy_uid);
        Self {
            client,
            pod,
            server,
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

    /// Makes the pod forward connections of the client and replace their source addresses with the pod's, as Docker
    /// does for its containers.
    pub(crate) fn forward_from_client(&self) {
        self.client.ip("-6 route add default via fd01::2");
        let masquerade = "table inet inner { chain postrouting { type nat hook postrouting priority 100; \
                          oifname eth1 masquerade; }; }";
        self.pod.command("nft", &["-f", "-"], masquerade);
        for setting in ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"] {
            self.pod.command("sysctl", &["--quiet", "--write", setting], "");
        }
    }

    /// Translates the addresses [`CLUSTER_IP`] and [`CLUSTER_IP_V6`] to those of the server, in the server's namespace, as
    /// kube-proxy does on the node.
    pub(crate) fn translate_cluster_ips(&self) {
        let table = format!(
            "table inet services {{ chain prerouting {{ type nat hook prerouting priority dstnat; \
             ip daddr {CLUSTER_IP} dnat to 10.1.2.1; ip6 daddr {CLUSTER_IP_V6} dnat to fd02::1; }}; }}"
        );
        self.server.command("nft", &["-f", "-"], &table);
    }

    /// Connects over TCP from the pod, as a user. Returns the response.
    pub(crate) fn pod_tcp(&self, uid: u32, target: &str) -> String {
        request(&self.pod, uid, Transport::Tcp, target)
    }

    /// Sends a query over UDP from the pod, as a user. Returns the response.
    pub(crate) fn pod_udp(&self, uid: u32, target: &str) -> String {
        request(&self.pod, uid, Transport::Udp, target)
    }

    /// Sends an echo request of ICMP from the pod. Returns the data of the response.
    pub(crate) fn pod_ping(&self, target: &str) -> String {
        ping(&self.pod, target)
    }

    /// Sends an echo request of ICMP from the client. Returns the data of the response.
    pub(crate) fn client_ping(&self, target: &str) -> String {
        ping(&self.client, target)
    }

    /// Connects over TCP from the client. Returns the response.
    pub(crate) fn client_tcp(&self, target: &str) -> String {
        request(&self.client, 0, Transport::Tcp, target)
    }

    /// Sends a query over UDP from the client. Returns the response.
    pub(crate) fn client_udp(&self, target: &str) -> String {
        request(&self.client, 0, Transport::Udp, target)
    }
}

/// Links the namespace `other` and the pod by a veth pair: `peer` with the address `10.1.<net>.1` in `other`, and
/// `interface` with the address `10.1.<net>.2` in the pod.
fn link_to_pod(other: &Namespace, pod: &Namespace, interface: &str, net: &str) {
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

/// Starts the simulated servers of the pod and of the server's namespace.
fn start_servers(pod: &Namespace, server: &Namespace, proxy_uid: u32) -> Vec<SimulatedServer> {
    let any_address = |port: u16| SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
    let mut servers = Vec::new();
    for (name, port) in [
        ("outbound", 15001),
        ("inbound", 15006),
        ("inbound-v6", 15010),
        ("dns", 15053),
    ] {
        servers.push(SimulatedServer::tcp(pod, proxy_uid, name, any_address(port)));
    }
    // A UDP server on the unspecified address would respond from the address that routing selects, and connection
    // tracking would not match that response to the redirected query. Queries of the pod are redirected to localhost,
    // queries of the client to the pod's address.
    let pod_address = Ipv4Addr::new(10, 1, 1, 2);
    for address in [
        IpAddr::from(Ipv4Addr::LOCALHOST),
        Ipv6Addr::LOCALHOST.into(),
        pod_address.into(),
    ] {
        servers.push(SimulatedServer::udp(
            pod,
            proxy_uid,
            "dns",
            SocketAddr::new(address, 15053),
        ));
    }
    for port in [8080, 9000] {
        servers.push(SimulatedServer::tcp(pod, APP_UID, "app", any_address(port)));
    }
    for port in [53, 80, 443, 2000] {
        servers.push(SimulatedServer::tcp(server, 0, "server", any_address(port)));
    }
    for port in [53, 443] {
        servers.push(SimulatedServer::udp(server, 0, "server", any_address(port)));
    }
    servers
}

/// Waits until the kernel has put the address of an interface that came up into the table of local addresses. It does so
/// in the background. Before, rules do not recognize the address.
fn wait_until_local(namespace: &Namespace, address: &str) {
    let deadline = Instant::now() + Duration::from_secs(10);
    let entry = format!("local {address} ");
    let list = ["-6", "route", "show", "table", "local"];
    while !namespace.command("ip", &list, "").contains(&entry) {
        assert!(Instant::now() < deadline, "{address} is not local");
    }
}
