//! Names of Envoy resources and SPIFFE ids (docs/reference/envoy.md#names). The names are an interface: users search
//! for them in statistics and logs.

use std::net::SocketAddr;

use kermode_model::{MeshName, ServiceName};

/// Listener and cluster in front of Envoy's admin interface.
pub const ADMIN: &str = "kuma:envoy:admin";
/// Listener for the kubelet's HTTP probes of the application.
pub const PROBES: &str = "probe:listener";
/// Cluster that connects to the address that the application has chosen, with the mesh's TLS.
pub const DIRECT_ACCESS: &str = "direct_access";

/// Inbound listener of one port. IPv6 addresses are in brackets, here and in all other names.
pub fn inbound(address: SocketAddr) -> String {
    format!("inbound:{address}")
}

/// Cluster that connects to a port of the application.
pub fn local(port: u16) -> String {
    format!("localhost:{port}")
}

/// Outbound listener of one address of a service.
pub fn outbound(address: SocketAddr) -> String {
    format!("outbound:{address}")
}

/// Cluster of one endpoint of a headless service. Kuma numbers these clusters per client; a name with the address is
/// the same for all clients.
pub fn headless_endpoint(service: &ServiceName, address: SocketAddr) -> String {
    format!("{service}-_{address}_")
}

/// Listener of one Pod address with direct access.
pub fn direct_access(address: SocketAddr) -> String {
    format!("{DIRECT_ACCESS}_{address}")
}

/// Listener and cluster for traffic to addresses without a listener.
pub(crate) fn passthrough(direction: &str, is_ipv6: bool) -> String {
    format!(
        "{direction}:passthrough:{}",
        if is_ipv6 { "ipv6" } else { "ipv4" }
    )
}

/// Prefix of all SPIFFE ids of a mesh.
pub fn spiffe_prefix(mesh: &MeshName) -> String {
    format!("spiffe://{mesh}/")
}

/// The SPIFFE id of a service.
pub fn spiffe_id(mesh: &MeshName, service: &ServiceName) -> String {
    format!("spiffe://{mesh}/{service}")
}

/// URI of one tag in a workload's certificate.
pub fn tag_uri(key: &str, value: &str) -> String {
    format!("kuma://{key}/{value}")
}

/// Server name (SNI) of connections to a service.
pub(crate) fn sni(mesh: &MeshName, service: &ServiceName) -> String {
    format!("{service}{{mesh={mesh}}}")
}

/// Converts a name for use in statistics: unsafe characters become underscores.
pub(crate) fn stat_name(name: &str) -> String {
    let is_safe = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    name.chars().map(|c| if is_safe(c) { c } else { '_' }).collect()
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
    fn names_in_statistics_have_only_safe_characters() {
        assert_eq!(stat_name("inbound:10.0.0.1:80"), "inbound_10_0_0_1_80");
        assert_eq!(stat_name("web-a_demo_svc_80"), "web-a_demo_svc_80");
    }

    #[test]
    fn server_name_contains_the_mesh() {
        assert_eq!(
            sni(&"default".into(), &"web_demo_svc_80".into()),
            "web_demo_svc_80{mesh=default}"
        );
    }
}
