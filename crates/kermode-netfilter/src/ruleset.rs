//! The rules as data, made of the settings alone.
//!
//! They do what Kuma's second engine does with iptables, in its order (BEHAVIOUR section 4.3). One table serves both IP
//! families. `build` makes them, `nft` writes them.

mod build;

use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU16;

use crate::exclusion::Transport;
use crate::{PortSet, UidSet};

/// The one table that is ours, whole. Its [`Display`](std::fmt::Display) is the text for `nft -f`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleSet {
    /// Chains, those that hang on a hook first.
    pub chains: Vec<Chain>,
}

/// A list of rules that ends when one of them decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// What others jump to.
    pub name: ChainName,
    /// Where packets enter it; without one, by a jump only.
    pub hook: Option<Hook>,
    /// In the order of evaluation.
    pub rules: Vec<Rule>,
}

/// The chains there are; their names follow Kuma's `KUMA_MESH_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainName {
    /// Connection tracking zones of received packets.
    RawPrerouting,
    /// Connection tracking zones of sent packets.
    RawOutput,
    /// Received connections.
    Prerouting,
    /// Connections made in the pod.
    Output,
    /// Which received connections are intercepted.
    Inbound,
    /// To the proxy's inbound port.
    InboundRedirect,
    /// Which connections made in the pod are intercepted.
    Outbound,
    /// To the proxy's outbound port.
    OutboundRedirect,
}

/// Where packets enter a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// On receipt, before connection tracking.
    RawPrerouting,
    /// On sending, before connection tracking.
    RawOutput,
    /// First packet of a received connection.
    NatPrerouting,
    /// First packet of a connection made here.
    NatOutput,
}

/// One rule: when all matches hold, the verdict applies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Conditions; none means always.
    pub matches: Vec<Match>,
    /// What happens then.
    pub verdict: Verdict,
    /// The reason, shown by `nft list ruleset`.
    pub comment: &'static str,
}

/// A condition on a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// The packet is of IPv4.
    V4,
    /// The packet is of IPv6.
    V6,
    /// It leaves through the loopback interface.
    OutLoopback,
    /// It came through the interface; a last `+` stands for any ending.
    InInterface(String),
    /// The socket it comes from belongs to one of the users.
    Owner(UidSet),
    /// Source address.
    From(IpAddr),
    /// Destination address.
    To(IpAddr),
    /// Of that family, and its destination is another address.
    NotTo(IpAddr),
    /// Of that family, and its destination is outside the network (prefix length in bits).
    NotToNetwork(IpAddr, u8),
    /// Transport protocol.
    Protocol(Transport),
    /// Protocol and source port.
    SourcePort(Transport, u16),
    /// Protocol and destination port.
    Port(Transport, PortSet),
    /// Protocol, and any destination port but this.
    NotPort(Transport, u16),
}

/// What happens to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing further in this chain; at the top, the packet is left alone.
    Return,
    /// Go on in another chain and stay there.
    Goto(ChainName),
    /// Go on in another chain, then come back.
    Jump(ChainName),
    /// To that port of this host.
    Redirect(NonZeroU16),
    /// Track the connection in that zone.
    Zone(u16),
}

/// Which IP families are intercepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpFamilies {
    /// IPv4 alone; IPv6 is left alone.
    V4,
    /// Both.
    DualStack,
}

/// IPv6 source of what the proxy's inbound listener sends to the application; it has to be an address of `lo`.
pub(crate) const PASSTHROUGH_SOURCE_V6: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6);
