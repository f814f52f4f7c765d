//! Names of Envoy resources, and SPIFFE IDs (docs/reference/envoy.md#names). Users search for these names in statistics
//! and logs, so a changed name is a breaking change.

use std::net::SocketAddr;

use kermode_model::{MeshName, ProbeProtocol, ServiceName};

/// Name of the listener in front of Envoy's admin interface, and of its cluster.
pub const ADMIN: &str = "kuma:envoy:admin";
/// Name of the listener for the kubelet's probes of the application.
pub const PROBES: &str = "probe:listener";
/// Name of the listener for collectors of metrics, as in Kuma.
pub const METRICS: &str = "kuma:metrics:prometheus";
/// Name of the filter chain for direct access ([`kermode_model::direct_access`]), and prefix of its statistics.
pub const DIRECT_ACCESS: &str = "direct_access";
/// Name of the filter chain for virtual IPs of services, and prefix of its statistics.
pub const VIRTUAL_IP: &str = "virtual_ip";

/// Prefix of the statistics of all outbound listeners and of their filters
/// (docs/reference/envoy.md#names). The statistics of the clusters tell the destinations apart.
pub(crate) const OUTBOUND_STATISTICS: &str = "outbound";

/// Name of the inbound listener at an address. In all names, IPv6 addresses are in brackets.
pub fn inbound(address: SocketAddr) -> String {
    format!("inbound:{address}")
}

/// Name of the cluster that connects to a port of the application at the Pod's first IP.
pub fn local(port: u16) -> String {
    format!("localhost:{port}")
}

/// Name of the cluster that connects to a port of the application at another IP of the Pod.
pub fn local_at(address: SocketAddr) -> String {
    format!("localhost:{address}")
}

/// Name of the cluster for HTTP or HTTPS probes of a port of the application.
pub(crate) fn probe(protocol: ProbeProtocol, port: u16) -> String {
    format!("probe:{}:{port}", protocol.as_str().to_ascii_lowercase())
}

/// Name of the outbound listener for one address of a service.
pub fn outbound(address: SocketAddr) -> String {
    format!("outbound:{address}")
}

/// Name of the cluster for one address of a service: the address of an endpoint of a headless service, or a ClusterIP
/// of a service with [`kermode_model::view::Balancing::LeftToNode`].
pub fn single_address(service: &ServiceName, address: SocketAddr) -> String {
    format!("{service}-_{address}_")
}

/// Name of the cluster for direct access to one address of a Pod.
pub fn direct_access(address: SocketAddr) -> String {
    format!("{DIRECT_ACCESS}_{address}")
}

/// Name of the cluster for connections to the virtual IP of a service.
pub fn virtual_ip(address: SocketAddr) -> String {
    format!("{VIRTUAL_IP}_{address}")
}

/// Name of a passthrough listener and of its cluster. `direction` is `inbound` or `outbound`.
pub(crate) fn passthrough(direction: &str, is_ipv6: bool) -> String {
    format!(
        "{direction}:passthrough:{}",
        if is_ipv6 { "ipv6" } else { "ipv4" }
    )
}

/// Prefix of the SPIFFE IDs of all services of a mesh.
pub fn spiffe_prefix(mesh: &MeshName) -> String {
    format!("spiffe://{mesh}/")
}

/// The SPIFFE ID of a service.
pub fn spiffe_id(mesh: &MeshName, service: &ServiceName) -> String {
    format!("spiffe://{mesh}/{service}")
}

/// The URI that represents a tag in a proxy's certificate.
pub fn tag_uri(key: &str, value: &str) -> String {
    format!("kuma://{key}/{value}")
}

/// The server name (SNI) of TLS connections to a service.
pub(crate) fn sni(mesh: &MeshName, service: &ServiceName) -> String {
    format!("{service}{{mesh={mesh}}}")
}

/// Converts a name for use in Envoy's statistics: characters other than ASCII letters, digits, `_` and `-` become `_`.
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
