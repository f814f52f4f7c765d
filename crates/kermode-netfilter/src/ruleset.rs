//! nftables rules as data, derived from the settings.
//!
//! The rules correspond to the iptables rules that Kuma creates with `--experimental-transparent-proxy-engine`
//! (docs/reference/transparent-proxying.md#rules). One table serves both IP families.
//!
//! The module `build` creates the rules; its comments explain the differences from Kuma. The module `crate::nft` writes
//! the rules as text.

mod build;

use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU16;

use crate::exclusion::Transport;
use crate::{PortSet, UidSet};

/// Contents of the table `kuma_mesh`. [`Display`](std::fmt::Display) writes the text for `nft -f`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleSet {
    /// Chains. The chains with a hook come first.
    pub chains: Vec<Chain>,
}

/// A list of rules, evaluated in order until a verdict ends the evaluation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Name.
    pub name: ChainName,
    /// Hook at which packets enter the chain; `None` if packets come only from rules of other chains.
    pub hook: Option<Hook>,
    /// Rules in the order of evaluation.
    pub rules: Vec<Rule>,
}

/// Name of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainName {
    /// Sets the connection tracking zones of received packets.
    RawPrerouting,
    /// Sets the connection tracking zones of sent packets.
    RawOutput,
    /// Handles received connections.
    Prerouting,
    /// Handles connections that processes of the Pod open.
    Output,
    /// Selects the received connections to intercept.
    Inbound,
    /// Redirects to the proxy's inbound port.
    InboundRedirect,
    /// Selects the connections to intercept among the connections that processes of the Pod open.
    Outbound,
    /// Redirects to the proxy's outbound port.
    OutboundRedirect,
}

/// Hook at which packets enter a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Received packet, before connection tracking.
    RawPrerouting,
    /// Sent packet, before connection tracking.
    RawOutput,
    /// First packet of a received connection.
    NatPrerouting,
    /// First packet of a connection that a process of the Pod opens.
    NatOutput,
}

/// One rule: the verdict applies to packets that all matches accept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Conditions; an empty list matches all packets.
    pub matches: Vec<Match>,
    /// Verdict.
    pub verdict: Verdict,
    /// Comment for `nft list ruleset`.
    pub comment: &'static str,
}

/// A condition on a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// IPv4 packet.
    V4,
    /// IPv6 packet.
    V6,
    /// The output interface is loopback.
    OutLoopback,
    /// Input interface; a trailing `+` matches any suffix.
    InInterface(String),
    /// UIDs of the owner of the sending socket.
    Owner(UidSet),
    /// The destination is an address of this network namespace.
    ToThisHost,
    /// Source address.
    From(IpAddr),
    /// Destination address.
    To(IpAddr),
    /// The packet has the IP family of this address, and another destination.
    NotTo(IpAddr),
    /// The packet has the IP family of this network, and a destination outside of the network (address,
    /// prefix length in bits).
    NotToNetwork(IpAddr, u8),
    /// Transport protocol.
    Protocol(Transport),
    /// Protocol and source port.
    SourcePort(Transport, u16),
    /// Protocol and destination port.
    DestinationPort(Transport, PortSet),
    /// Protocol, and a destination port other than this port.
    NotDestinationPort(Transport, u16),
}

/// Verdict on a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Ends the evaluation of the chain. A chain with a hook then accepts the packet unchanged.
    Return,
    /// Continues in another chain without returning.
    Goto(ChainName),
    /// Continues in another chain and returns afterwards.
    Jump(ChainName),
    /// Redirects the connection to a port of this host.
    Redirect(NonZeroU16),
    /// Assigns the packet to a connection tracking zone and ends the evaluation of the chain.
    Zone(u16),
}

/// IP families that may be intercepted. The interception of IPv6 also needs an inbound IPv6 port in the settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpFamilies {
    /// IPv4 only.
    V4,
    /// IPv4 and IPv6.
    DualStack,
}

/// IPv6 address from which the proxy connects to the application; the rules exempt these connections. Must be an
/// address of `lo`.
pub(crate) const EXEMPT_SOURCE_V6: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6);
