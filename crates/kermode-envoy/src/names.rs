//! The names of resources and identities: one place, since users grep them and other crates look them up
//! (BEHAVIOUR section 6.1).

use std::net::SocketAddr;

use kermode_model::{MeshName, ServiceName};

/// Listener and cluster in front of Envoy's admin interface.
pub const ADMIN: &str = "kuma:envoy:admin";
/// Listener that answers the kubelet's HTTP probes.
pub const PROBES: &str = "probe:listener";
/// Cluster that dials the pod an application addressed, with the mesh's TLS.
pub const DIRECT_ACCESS: &str = "direct_access";

/// Listener for one port of the workload. IPv6 addresses are in brackets, here and below.
pub fn inbound(address: SocketAddr) -> String {
    format!("inbound:{address}")
}

/// Cluster that leads to the application's own port.
pub fn local(port: u16) -> String {
    format!("localhost:{port}")
}

/// Listener for one address that clients use.
pub fn outbound(address: SocketAddr) -> String {
    format!("outbound:{address}")
}

/// Cluster for a single endpoint of a headless service. Kuma numbers such subsets for each client; an address in
/// the number's place gives every client the same name.
pub fn instance(service: &ServiceName, address: SocketAddr) -> String {
    format!("{service}-_{address}_")
}

/// Listener for one pod that is reached by its own address.
pub fn direct_access(address: SocketAddr) -> String {
    format!("{DIRECT_ACCESS}_{address}")
}

/// Listener and cluster for traffic that no other listener is for.
pub(crate) fn passthrough(direction: &str, ipv6: bool) -> String {
    format!("{direction}:passthrough:{}", if ipv6 { "ipv6" } else { "ipv4" })
}

/// What every SPIFFE id of a mesh starts with.
pub fn spiffe_prefix(mesh: &MeshName) -> String {
    format!("spiffe://{mesh}/")
}

/// The SPIFFE id of a service.
pub fn spiffe_id(mesh: &MeshName, service: &ServiceName) -> String {
    format!("spiffe://{mesh}/{service}")
}

/// The URI that stands for one tag in a workload's certificate.
pub fn tag_uri(key: &str, value: &str) -> String {
    format!("kuma://{key}/{value}")
}

/// The server name a client sends for a service.
pub(crate) fn sni(mesh: &MeshName, service: &ServiceName) -> String {
    format!("{service}{{mesh={mesh}}}")
}

/// A name as it appears in statistics.
pub(crate) fn stat(name: &str) -> String {
    let safe = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    name.chars().map(|c| if safe(c) { c } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv6_addresses_are_bracketed() {
        assert_eq!(
            inbound("[fd00::1]:80".parse().expect("an address")),
            "inbound:[fd00::1]:80"
        );
    }

    #[test]
    fn statistics_names_keep_only_safe_characters() {
        assert_eq!(stat("inbound:10.0.0.1:80"), "inbound_10_0_0_1_80");
        assert_eq!(stat("web-a_demo_svc_80"), "web-a_demo_svc_80");
    }

    #[test]
    fn the_server_name_carries_the_mesh() {
        assert_eq!(
            sni(&"default".into(), &"web_demo_svc_80".into()),
            "web_demo_svc_80{mesh=default}"
        );
    }
}
