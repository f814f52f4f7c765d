//! What is to be intercepted in a pod. Flags and annotations are read into this, rules are made of it.

use std::net::IpAddr;
use std::num::NonZeroU16;

use crate::{PortSet, UidExclusion};

/// All settings of transparent proxying (BEHAVIOUR section 4.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrafficConfig {
    /// UID of the proxy, whose own connections are left alone.
    pub proxy_uid: u32,
    /// Connections that reach the pod.
    pub inbound: InboundRedirect,
    /// Connections that leave the pod's containers.
    pub outbound: OutboundRedirect,
    /// DNS queries; left alone when absent.
    pub dns: Option<DnsRedirect>,
    /// Networks behind interfaces of the pod whose traffic counts as outbound.
    pub virtual_networks: Vec<VirtualNetwork>,
}

/// Connections that reach the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundRedirect {
    /// Whether they are intercepted at all. Off for gateways.
    pub enabled: bool,
    /// The proxy's port for them.
    pub port: NonZeroU16,
    /// The same for IPv6. Without it nothing of IPv6 is intercepted, in either direction.
    pub port_v6: Option<NonZeroU16>,
    /// Destination ports that are left alone.
    pub excluded_ports: PortSet,
}

/// Connections that leave the pod's containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboundRedirect {
    /// The proxy's port for them, for both IP families.
    pub port: NonZeroU16,
    /// Destination ports that are left alone.
    pub excluded_ports: PortSet,
    /// What is left alone when certain users ask for it, DNS included.
    pub excluded_uids: Vec<UidExclusion>,
}

/// Redirection of DNS queries, UDP and TCP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsRedirect {
    /// The proxy's DNS port.
    pub port: NonZeroU16,
    /// Which queries.
    pub servers: DnsServers,
    /// Keeps the proxy's own queries and the redirected ones apart in connection tracking, where they collide
    /// otherwise when both use one source port.
    pub split_conntrack_zones: bool,
}

/// Which DNS queries are redirected, by where they go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DnsServers {
    /// All of them.
    All,
    /// Those to the listed servers.
    Only(Vec<IpAddr>),
}

/// A network of virtual machines or containers inside the pod (`--vnet interface:CIDR`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualNetwork {
    /// Name of the interface; a last character `+` stands for any ending.
    pub interface: String,
    /// Address of the network; traffic inside it is left alone.
    pub address: IpAddr,
    /// Length of its prefix in bits.
    pub prefix: u8,
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
    /// UID that the injector runs the sidecar with (BEHAVIOUR section 1).
    pub const DEFAULT_PROXY_UID: u32 = 5678;
}

// === impl InboundRedirect ===

impl InboundRedirect {
    /// Where inbound connections go unless said otherwise (BEHAVIOUR section 1).
    pub const DEFAULT_PORT: NonZeroU16 = port(15006);
    /// The same for IPv6.
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
    /// Where outbound connections go unless said otherwise (BEHAVIOUR section 1).
    pub const DEFAULT_PORT: NonZeroU16 = port(15001);
}

impl Default for OutboundRedirect {
    fn default() -> Self {
        Self {
            port: Self::DEFAULT_PORT,
            excluded_ports: PortSet::default(),
            excluded_uids: Vec::new(),
        }
    }
}

// === impl DnsRedirect ===

impl DnsRedirect {
    /// Where DNS queries go unless said otherwise (BEHAVIOUR section 1).
    pub const DEFAULT_PORT: NonZeroU16 = port(15053);

    /// All queries, to that port.
    pub fn all(port: NonZeroU16) -> Self {
        Self {
            port,
            servers: DnsServers::All,
            split_conntrack_zones: true,
        }
    }
}

/// `NonZeroU16::new` for the numbers above, none of which is 0.
const fn port(number: u16) -> NonZeroU16 {
    match NonZeroU16::new(number) {
        Some(port) => port,
        None => NonZeroU16::MIN,
    }
}
