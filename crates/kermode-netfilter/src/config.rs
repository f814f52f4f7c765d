//! Settings of transparent proxying, read from flags or annotations. `ruleset` builds the rules from them.

use std::net::IpAddr;
use std::num::NonZeroU16;

use crate::{PortSet, UidExclusion};

/// All settings of transparent proxying (docs/reference/transparent-proxying.md#settings).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrafficConfig {
    /// UID of the proxy, whose own connections are not intercepted.
    pub proxy_uid: u32,
    /// Interception of incoming connections.
    pub inbound: InboundRedirect,
    /// Interception of outgoing connections.
    pub outbound: OutboundRedirect,
    /// Redirection of DNS queries; `None` disables it.
    pub dns: Option<DnsRedirect>,
    /// Networks inside the Pod, for instance of virtual machines. Traffic that leaves such a network is handled as
    /// outbound. Traffic of other networks inside the Pod is forwarded unchanged.
    pub virtual_networks: Vec<VirtualNetwork>,
}

/// Interception of incoming connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundRedirect {
    /// Whether incoming connections are intercepted. False for delegated gateways.
    pub enabled: bool,
    /// Inbound port of the proxy for IPv4.
    pub port: NonZeroU16,
    /// Inbound port of the proxy for IPv6. `None` disables the interception of IPv6 in both directions.
    pub port_v6: Option<NonZeroU16>,
    /// Destination ports that are not intercepted.
    pub excluded_ports: PortSet,
}

/// Interception of outgoing connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboundRedirect {
    /// Outbound port of the proxy for both IP families.
    pub port: NonZeroU16,
    /// Destination ports that are not intercepted.
    pub excluded_ports: PortSet,
    /// Exclusions of the traffic of certain users from interception, DNS included.
    pub uid_exclusions: Vec<UidExclusion>,
}

/// Redirection of DNS queries over UDP and TCP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsRedirect {
    /// DNS port of the proxy.
    pub port: NonZeroU16,
    /// Queries to these servers are redirected.
    pub servers: DnsServers,
    /// Whether redirected queries and the proxy's own queries use separate connection tracking zones. In a common zone,
    /// a redirected query and a query of the proxy with the same source port would collide.
    pub split_conntrack_zones: bool,
}

/// Selects DNS queries by the server to which they are addressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DnsServers {
    /// Queries to all servers.
    All,
    /// Queries to the listed servers.
    Only(Vec<IpAddr>),
}

/// A network of virtual machines or containers inside the Pod (`--vnet interface:CIDR`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualNetwork {
    /// Name of the interface; a trailing `+` matches any suffix.
    pub interface: String,
    /// Address of the network. Traffic within the network is not intercepted.
    pub address: IpAddr,
    /// Length of the network prefix, in bits.
    pub prefix_length: u8,
}

// === impl TrafficConfig ===

impl Default for TrafficConfig {
    fn default() -> Self {
        Self {
            proxy_uid: Self::DEFAULT_PROXY_UID,
            inbound: InboundRedirect::default(),
            outbound: OutboundRedirect::default(),
            dns: None,
            virtual_networks: Vec::new(),
        }
    }
}

impl TrafficConfig {
    /// Default UID of the proxy (docs/reference/names-and-ports.md#names).
    pub const DEFAULT_PROXY_UID: u32 = 5678;
}

// === impl InboundRedirect ===

impl InboundRedirect {
    /// Default inbound port for IPv4 (docs/reference/names-and-ports.md#ports).
    pub const DEFAULT_PORT: NonZeroU16 = port(15006);
    /// Default inbound port for IPv6.
    pub const DEFAULT_PORT_V6: NonZeroU16 = port(15010);
}

impl Default for InboundRedirect {
    fn default() -> Self {
        Self {
            enabled: true,
            port: Self::DEFAULT_PORT,
            port_v6: Some(Self::DEFAULT_PORT_V6),
            excluded_ports: PortSet::default(),
        }
    }
}

// === impl OutboundRedirect ===

impl OutboundRedirect {
    /// Default outbound port (docs/reference/names-and-ports.md#ports).
    pub const DEFAULT_PORT: NonZeroU16 = port(15001);
}

impl Default for OutboundRedirect {
    fn default() -> Self {
        Self {
            port: Self::DEFAULT_PORT,
            excluded_ports: PortSet::default(),
            uid_exclusions: Vec::new(),
        }
    }
}

// === impl DnsRedirect ===

impl DnsRedirect {
    /// Default DNS port (docs/reference/names-and-ports.md#ports).
    pub const DEFAULT_PORT: NonZeroU16 = port(15053);

    /// Redirects all queries to a port.
    pub fn all(port: NonZeroU16) -> Self {
        Self {
            port,
            servers: DnsServers::All,
            split_conntrack_zones: true,
        }
    }
}

/// Converts a port number other than 0, in a constant expression.
const fn port(number: u16) -> NonZeroU16 {
    match NonZeroU16::new(number) {
        Some(port) => port,
        None => NonZeroU16::MIN,
    }
}
