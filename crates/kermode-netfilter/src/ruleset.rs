//! The rules as data, made of the settings alone.
//!
//! They do what Kuma's second engine does with iptables, in its order (BEHAVIOUR section 4.3). One table serves both IP
//! families.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU16;

use crate::config::{DnsRedirect, DnsServers, TrafficConfig};
use crate::exclusion::Transport::{self, Tcp, Udp};
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

/// Addresses with a meaning in the rules, of one IP family.
#[derive(Clone, Copy)]
struct Landmarks {
    /// Source of what the proxy's inbound listener sends to the application.
    passthrough_source: IpAddr,
    loopback: IpAddr,
}

const V4: Landmarks = Landmarks {
    passthrough_source: IpAddr::V4(Ipv4Addr::new(127, 0, 0, 6)),
    loopback: IpAddr::V4(Ipv4Addr::LOCALHOST),
};
const V6: Landmarks = Landmarks {
    passthrough_source: IpAddr::V6(PASSTHROUGH_SOURCE_V6),
    loopback: IpAddr::V6(Ipv6Addr::LOCALHOST),
};

/// IPv6 source of what the proxy's inbound listener sends to the application; it has to be an address of `lo`.
pub(crate) const PASSTHROUGH_SOURCE_V6: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6);

const DNS_PORT: u16 = 53;
const PROXY_QUERIES: Verdict = Verdict::Zone(1);
const REDIRECTED_QUERIES: Verdict = Verdict::Zone(2);

// === impl RuleSet ===

impl RuleSet {
    /// The rules for a pod that speaks the given families. IPv6 also needs a port in the settings.
    pub fn new(config: &TrafficConfig, families: IpFamilies) -> Self {
        let dual_stack = families == IpFamilies::DualStack && config.inbound.port_v6.is_some();
        let landmarks: &[Landmarks] = if dual_stack { &[V4, V6] } else { &[V4] };
        let builder = Builder {
            config,
            landmarks,
            proxy: Match::Owner(UidSet::single(config.proxy_uid)),
        };
        let mut chains = Vec::new();
        if let Some(dns) = config.dns.as_ref().filter(|dns| dns.split_conntrack_zones) {
            chains.push(builder.raw_prerouting(dns));
            chains.push(builder.raw_output(dns));
        }
        chains.extend([
            builder.prerouting(),
            builder.output(),
            builder.inbound(),
            builder.inbound_redirect(),
            builder.outbound(),
            builder.outbound_redirect(),
        ]);
        Self { chains }
    }
}

struct Builder<'a> {
    config: &'a TrafficConfig,
    landmarks: &'a [Landmarks],
    proxy: Match,
}

impl Builder<'_> {
    fn raw_prerouting(&self, dns: &DnsRedirect) -> Chain {
        let mut rules = self.family_guard();
        for server in self.servers(dns) {
            let matches = server
                .map(Match::From)
                .into_iter()
                .chain([Match::SourcePort(Udp, DNS_PORT)]);
            rules.push(rule(
                matches,
                PROXY_QUERIES,
                "answers to the proxy's own DNS queries",
            ));
        }
        Chain {
            name: ChainName::RawPrerouting,
            hook: Some(Hook::RawPrerouting),
            rules,
        }
    }

    fn raw_output(&self, dns: &DnsRedirect) -> Chain {
        let query = Match::Port(Udp, PortSet::single(DNS_PORT));
        let answer = Match::SourcePort(Udp, dns.port.get());
        let mut rules = self.family_guard();
        rules.push(rule(
            [query.clone(), self.proxy.clone()],
            PROXY_QUERIES,
            "the proxy's own DNS queries",
        ));
        rules.push(rule(
            [answer, self.proxy.clone()],
            REDIRECTED_QUERIES,
            "the proxy's answers",
        ));
        for server in self.servers(dns) {
            let matches = server.map(Match::To).into_iter().chain([query.clone()]);
            rules.push(rule(matches, REDIRECTED_QUERIES, "DNS queries to be redirected"));
        }
        Chain {
            name: ChainName::RawOutput,
            hook: Some(Hook::RawOutput),
            rules,
        }
    }

    fn prerouting(&self) -> Chain {
        let mut rules = self.family_guard();
        for network in self
            .config
            .virtual_networks
            .iter()
            .filter(|network| self.speaks(network.address))
        {
            let from = Match::InInterface(network.interface.clone());
            for (server, dns) in self
                .config
                .dns
                .iter()
                .flat_map(|dns| self.servers(dns).map(move |server| (server, dns)))
            {
                let query = Match::Port(Udp, PortSet::single(DNS_PORT));
                let matches = [from.clone()]
                    .into_iter()
                    .chain(server.map(Match::To))
                    .chain([query]);
                rules.push(rule(
                    matches,
                    Verdict::Redirect(dns.port),
                    "DNS queries of a virtual network",
                ));
            }
            let outside = Match::NotToNetwork(network.address, network.prefix);
            let verdict = Verdict::Redirect(self.config.outbound.port);
            rules.push(rule(
                [from, outside, Match::Protocol(Tcp)],
                verdict,
                "connections out of a virtual network",
            ));
        }
        rules.push(rule(
            [Match::Protocol(Tcp)],
            Verdict::Jump(ChainName::Inbound),
            "received connections",
        ));
        Chain {
            name: ChainName::Prerouting,
            hook: Some(Hook::NatPrerouting),
            rules,
        }
    }

    fn output(&self) -> Chain {
        let mut rules = self.family_guard();
        for exclusion in &self.config.outbound.excluded_uids {
            let ports = Match::Port(exclusion.transport, exclusion.ports.clone());
            let owner = Match::Owner(exclusion.uids.clone());
            rules.push(rule([ports, owner], Verdict::Return, "excluded for the user"));
        }
        if let Some(dns) = &self.config.dns {
            let query = Match::Port(Udp, PortSet::single(DNS_PORT));
            let from_proxy = [query.clone(), self.proxy.clone()];
            rules.push(rule(from_proxy, Verdict::Return, "the proxy's own DNS queries"));
            for server in self.servers(dns) {
                let matches = server.map(Match::To).into_iter().chain([query.clone()]);
                rules.push(rule(matches, Verdict::Redirect(dns.port), "DNS queries over UDP"));
            }
        }
        rules.push(rule(
            [Match::Protocol(Tcp)],
            Verdict::Jump(ChainName::Outbound),
            "connections made here",
        ));
        Chain {
            name: ChainName::Output,
            hook: Some(Hook::NatOutput),
            rules,
        }
    }

    fn inbound(&self) -> Chain {
        let inbound = &self.config.inbound;
        let mut rules = excluded_ports(&inbound.excluded_ports);
        rules.push(if inbound.enabled {
            rule([], Verdict::Goto(ChainName::InboundRedirect), "everything else")
        } else {
            rule([], Verdict::Return, "inbound connections are not intercepted")
        });
        Chain {
            name: ChainName::Inbound,
            hook: None,
            rules,
        }
    }

    fn inbound_redirect(&self) -> Chain {
        const TO_PROXY: &str = "to the proxy's inbound listener";
        let redirect = |family: Option<Match>, port| {
            let matches = family.into_iter().chain([Match::Protocol(Tcp)]);
            rule(matches, Verdict::Redirect(port), TO_PROXY)
        };
        let port = self.config.inbound.port;
        let rules = match self.config.inbound.port_v6.filter(|_| self.speaks_v6()) {
            Some(port_v6) if port_v6 != port => vec![
                redirect(Some(Match::V4), port),
                redirect(Some(Match::V6), port_v6),
            ],
            _ => vec![redirect(None, port)],
        };
        Chain {
            name: ChainName::InboundRedirect,
            hook: None,
            rules,
        }
    }

    /// The numbers are those of BEHAVIOUR section 4.3. Rule 5 stands before rule 4, which then needs no owner: the outcome
    /// is the same, and `meta skuid !=`, unlike iptables' `! --uid-owner`, would not match a packet without an owner.
    fn outbound(&self) -> Chain {
        let not_dns = || self.config.dns.as_ref().map(|_| Match::NotPort(Tcp, DNS_PORT));
        // 1
        let mut rules = excluded_ports(&self.config.outbound.excluded_ports);
        // 2
        for place in self.landmarks {
            let matches = [Match::OutLoopback, Match::From(place.passthrough_source)];
            rules.push(rule(
                matches,
                Verdict::Return,
                "from the proxy's inbound listener to the application",
            ));
        }
        // 3
        for place in self.landmarks {
            let matches = [Match::OutLoopback, Match::NotTo(place.loopback)]
                .into_iter()
                .chain(not_dns());
            let matches = matches.chain([self.proxy.clone()]);
            let verdict = Verdict::Goto(ChainName::InboundRedirect);
            rules.push(rule(
                matches,
                verdict,
                "an application that calls its own service",
            ));
        }
        // 5
        rules.push(rule(
            [self.proxy.clone()],
            Verdict::Return,
            "the proxy's own connections",
        ));
        // 4
        let matches = [Match::OutLoopback].into_iter().chain(not_dns());
        rules.push(rule(matches, Verdict::Return, "inside the pod"));
        // 6
        for (server, dns) in self
            .config
            .dns
            .iter()
            .flat_map(|dns| self.servers(dns).map(move |server| (server, dns)))
        {
            let query = Match::Port(Tcp, PortSet::single(DNS_PORT));
            let matches = server.map(Match::To).into_iter().chain([query]);
            rules.push(rule(matches, Verdict::Redirect(dns.port), "DNS queries over TCP"));
        }
        // 7
        for place in self.landmarks {
            rules.push(rule([Match::To(place.loopback)], Verdict::Return, "to localhost"));
        }
        // 8
        rules.push(rule(
            [],
            Verdict::Goto(ChainName::OutboundRedirect),
            "everything else",
        ));
        Chain {
            name: ChainName::Outbound,
            hook: None,
            rules,
        }
    }

    fn outbound_redirect(&self) -> Chain {
        let verdict = Verdict::Redirect(self.config.outbound.port);
        let rules = vec![rule(
            [Match::Protocol(Tcp)],
            verdict,
            "to the proxy's outbound listener",
        )];
        Chain {
            name: ChainName::OutboundRedirect,
            hook: None,
            rules,
        }
    }

    fn speaks_v6(&self) -> bool {
        self.landmarks.len() > 1
    }

    fn speaks(&self, address: IpAddr) -> bool {
        address.is_ipv4() || self.speaks_v6()
    }

    /// Keeps packets of a family that is not intercepted out of a chain.
    fn family_guard(&self) -> Vec<Rule> {
        let guard = rule([Match::V6], Verdict::Return, "IPv6 is not intercepted");
        if self.speaks_v6() { Vec::new() } else { vec![guard] }
    }

    /// The servers to match; a single none for all of them.
    fn servers(&self, dns: &DnsRedirect) -> impl Iterator<Item = Option<IpAddr>> {
        let servers = match &dns.servers {
            DnsServers::All => vec![None],
            DnsServers::Only(servers) => servers
                .iter()
                .filter(|server| self.speaks(**server))
                .copied()
                .map(Some)
                .collect(),
        };
        servers.into_iter()
    }
}

fn rule(matches: impl IntoIterator<Item = Match>, verdict: Verdict, comment: &'static str) -> Rule {
    Rule {
        matches: matches.into_iter().collect(),
        verdict,
        comment,
    }
}

fn excluded_ports(ports: &PortSet) -> Vec<Rule> {
    if ports.is_empty() {
        return Vec::new();
    }
    vec![rule(
        [Match::Port(Tcp, ports.clone())],
        Verdict::Return,
        "excluded ports",
    )]
}
