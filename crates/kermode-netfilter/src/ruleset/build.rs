//! Builds the rules from the settings.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Chain, ChainName, EXEMPT_SOURCE_V6, Hook, IpFamilies, Match, Rule, RuleSet, Verdict};
use crate::config::{DnsRedirect, DnsServers, TrafficConfig};
use crate::exclusion::Transport::{self, Tcp, Udp};
use crate::{PortSet, UidSet};

/// Builds the chains of a [`RuleSet`].
struct RuleSetBuilder<'a> {
    config: &'a TrafficConfig,
    /// Special addresses of each intercepted IP family.
    addresses: &'a [SpecialAddresses],
    /// Matches packets of the proxy.
    from_proxy: Match,
}

/// Addresses of one IP family that have rules of their own.
#[derive(Clone, Copy)]
struct SpecialAddresses {
    /// Address from which the proxy connects to the application.
    exempt_source: IpAddr,
    loopback: IpAddr,
}

const V4: SpecialAddresses = SpecialAddresses {
    exempt_source: IpAddr::V4(Ipv4Addr::new(127, 0, 0, 6)),
    loopback: IpAddr::V4(Ipv4Addr::LOCALHOST),
};
const V6: SpecialAddresses = SpecialAddresses {
    exempt_source: IpAddr::V6(EXEMPT_SOURCE_V6),
    loopback: IpAddr::V6(Ipv6Addr::LOCALHOST),
};

const DNS_PORT: u16 = 53;
/// Verdict for DNS queries that are not redirected: assigns their connection tracking zone.
const DIRECT_ZONE: Verdict = Verdict::Zone(1);
/// Verdict for DNS queries that are redirected to the proxy: assigns their connection tracking zone.
const REDIRECTED_ZONE: Verdict = Verdict::Zone(2);

// === impl RuleSet ===

impl RuleSet {
    /// Builds the rules. IPv6 is intercepted if `families` is [`IpFamilies::DualStack`] and the settings have an
    /// inbound IPv6 port.
    pub fn new(config: &TrafficConfig, families: IpFamilies) -> Self {
        let intercepts_v6 = families == IpFamilies::DualStack && config.inbound.port_v6.is_some();
        let addresses: &[SpecialAddresses] = if intercepts_v6 { &[V4, V6] } else { &[V4] };
        let builder = RuleSetBuilder {
            config,
            addresses,
            from_proxy: Match::Owner(UidSet::single(config.proxy_uid)),
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

// === impl RuleSetBuilder ===

impl RuleSetBuilder<'_> {
    fn raw_prerouting(&self, dns: &DnsRedirect) -> Chain {
        let mut rules = self.ipv6_guard();
        // Queries of virtual networks get the zone of the proxy's responses, so that connection tracking matches the
        // responses to the queries. Kuma leaves these queries in the default zone.
        for interface in self.virtual_interfaces() {
            for query in self.redirected_queries(dns, Udp) {
                let matches = [interface.clone()].into_iter().chain(query);
                rules.push(rule(matches, REDIRECTED_ZONE, "DNS queries of a virtual network"));
            }
        }
        for server in self.matched_servers(dns) {
            let matches = server
                .map(Match::From)
                .into_iter()
                .chain([Match::SourcePort(Udp, DNS_PORT)]);
            rules.push(rule(
                matches,
                DIRECT_ZONE,
                "answers to DNS queries that were not redirected",
            ));
        }
        Chain {
            name: ChainName::RawPrerouting,
            hook: Some(Hook::RawPrerouting),
            rules,
        }
    }

    fn raw_output(&self, dns: &DnsRedirect) -> Chain {
        let response = Match::SourcePort(Udp, dns.port.get());
        let mut rules = self.ipv6_guard();
        rules.push(rule(
            [dns_query(Udp), self.from_proxy.clone()],
            DIRECT_ZONE,
            "the proxy's own DNS queries",
        ));
        rules.push(rule(
            [response, self.from_proxy.clone()],
            REDIRECTED_ZONE,
            "the proxy's answers",
        ));
        // Queries of excluded users are not redirected, so they get the zone of direct queries. Kuma assigns the
        // queries of excluded users to the zone of redirected queries. The responses to these queries, which get the
        // zone of direct queries, then match no connection. If another user later sends a query from the same source
        // port, that query matches the connection of the earlier query and is not redirected, although it should be.
        let dns_exclusions = self
            .config
            .outbound
            .uid_exclusions
            .iter()
            .filter(|exclusion| exclusion.transport == Udp && exclusion.ports.contains(DNS_PORT));
        for exclusion in dns_exclusions {
            let owner = Match::Owner(exclusion.uids.clone());
            rules.push(rule(
                [dns_query(Udp), owner],
                DIRECT_ZONE,
                "excluded for the user",
            ));
        }
        let queries = self.redirected_queries(dns, Udp);
        rules.extend(queries.map(|query| rule(query, REDIRECTED_ZONE, "DNS queries to be redirected")));
        Chain {
            name: ChainName::RawOutput,
            hook: Some(Hook::RawOutput),
            rules,
        }
    }

    fn prerouting(&self) -> Chain {
        let mut rules = self.ipv6_guard();
        if let Some(dns) = &self.config.dns {
            for interface in self.virtual_interfaces() {
                for query in self.redirected_queries(dns, Udp) {
                    let matches = [interface.clone()].into_iter().chain(query);
                    rules.push(rule(
                        matches,
                        Verdict::Redirect(dns.port),
                        "DNS queries of a virtual network",
                    ));
                }
            }
        }
        let redirect = Verdict::Redirect(self.config.outbound.port);
        for network in self
            .config
            .virtual_networks
            .iter()
            .filter(|network| self.intercepts(network.address))
        {
            let from_network = Match::InInterface(network.interface.clone());
            let to_outside = Match::NotToNetwork(network.address, network.prefix_length);
            let matches = [from_network, to_outside, Match::Protocol(Tcp)];
            rules.push(rule(matches, redirect, "connections out of a virtual network"));
        }
        // Only connections to an address of the Pod are received. Connections to other addresses are forwarded, for
        // instance the connections of nested containers (Docker-in-Docker), and are not redirected here.
        let received = [Match::ToThisHost, Match::Protocol(Tcp)];
        let jump = Verdict::Jump(ChainName::Inbound);
        rules.push(rule(received, jump, "received connections"));
        Chain {
            name: ChainName::Prerouting,
            hook: Some(Hook::NatPrerouting),
            rules,
        }
    }

    fn output(&self) -> Chain {
        let mut rules = self.ipv6_guard();
        for exclusion in &self.config.outbound.uid_exclusions {
            let ports = Match::DestinationPort(exclusion.transport, exclusion.ports.clone());
            let owner = Match::Owner(exclusion.uids.clone());
            rules.push(rule([ports, owner], Verdict::Return, "excluded for the user"));
        }
        if let Some(dns) = &self.config.dns {
            let matches = [dns_query(Udp), self.from_proxy.clone()];
            rules.push(rule(matches, Verdict::Return, "the proxy's own DNS queries"));
            let queries = self.redirected_queries(dns, Udp);
            rules.extend(
                queries.map(|query| rule(query, Verdict::Redirect(dns.port), "DNS queries over UDP")),
            );
        }
        let jump = Verdict::Jump(ChainName::Outbound);
        rules.push(rule(
            [Match::Protocol(Tcp)],
            jump,
            "connections opened in the pod",
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
        let redirect = |family: Option<Match>, port| {
            let matches = family.into_iter().chain([Match::Protocol(Tcp)]);
            rule(
                matches,
                Verdict::Redirect(port),
                "to the proxy's inbound listener",
            )
        };
        let port = self.config.inbound.port;
        let rules = match self.config.inbound.port_v6.filter(|_| self.intercepts_v6()) {
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

    /// Rules are numbered as in docs/reference/transparent-proxying.md#rules. In Kuma, rule 5 precedes rule 4 and does
    /// not apply to the proxy's packets: its condition `! --uid-owner` holds for all other packets, also for packets
    /// without an owner. The condition `meta skuid !=` does not hold for packets without an owner, to which rule 5 must
    /// also apply. So rule 5 has no condition on the owner here, and rule 4, which handles the proxy's packets, comes
    /// first.
    fn outbound(&self) -> Chain {
        let dns = self.config.dns.as_ref();
        let not_dns = || dns.map(|_| Match::NotDestinationPort(Tcp, DNS_PORT));
        // Rule 1
        let mut rules = excluded_ports(&self.config.outbound.excluded_ports);
        // Rule 2
        for family in self.addresses {
            let matches = [Match::OutLoopback, Match::From(family.exempt_source)];
            rules.push(rule(
                matches,
                Verdict::Return,
                "from the proxy's inbound listener to the application",
            ));
        }
        // Rule 3
        for family in self.addresses {
            let matches = [Match::OutLoopback, Match::NotTo(family.loopback)]
                .into_iter()
                .chain(not_dns());
            let matches = matches.chain([self.from_proxy.clone()]);
            let verdict = Verdict::Goto(ChainName::InboundRedirect);
            rules.push(rule(
                matches,
                verdict,
                "an application that calls its own service",
            ));
        }
        // Rule 4
        rules.push(rule(
            [self.from_proxy.clone()],
            Verdict::Return,
            "the proxy's own connections",
        ));
        // Rule 5
        let matches = [Match::OutLoopback].into_iter().chain(not_dns());
        rules.push(rule(matches, Verdict::Return, "inside the pod"));
        // Rule 6
        if let Some(dns) = dns {
            let queries = self.redirected_queries(dns, Tcp);
            rules.extend(
                queries.map(|query| rule(query, Verdict::Redirect(dns.port), "DNS queries over TCP")),
            );
        }
        // Rule 7
        for family in self.addresses {
            rules.push(rule(
                [Match::To(family.loopback)],
                Verdict::Return,
                "to localhost",
            ));
        }
        // Rule 8
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

    fn intercepts_v6(&self) -> bool {
        self.addresses.len() > 1
    }

    /// Returns whether the family of an address is intercepted.
    fn intercepts(&self, address: IpAddr) -> bool {
        address.is_ipv4() || self.intercepts_v6()
    }

    /// Returns a rule that lets IPv6 packets skip the chain, or none if IPv6 is intercepted.
    fn ipv6_guard(&self) -> Vec<Rule> {
        if self.intercepts_v6() {
            return Vec::new();
        }
        vec![rule([Match::V6], Verdict::Return, "IPv6 is not intercepted")]
    }

    /// Returns matches for the interfaces of the virtual networks, without duplicates.
    fn virtual_interfaces(&self) -> impl Iterator<Item = Match> {
        let mut names: Vec<_> = self
            .config
            .virtual_networks
            .iter()
            .map(|network| &network.interface)
            .collect();
        names.sort();
        names.dedup();
        names.into_iter().cloned().map(Match::InInterface)
    }

    /// Returns the DNS servers to which redirected queries are addressed; a single `None` means all servers.
    fn matched_servers(&self, dns: &DnsRedirect) -> impl Iterator<Item = Option<IpAddr>> {
        let servers = match &dns.servers {
            DnsServers::All => vec![None],
            DnsServers::Only(servers) => servers
                .iter()
                .filter(|server| self.intercepts(**server))
                .copied()
                .map(Some)
                .collect(),
        };
        servers.into_iter()
    }

    /// Returns the matches for redirected DNS queries, one list for each server.
    fn redirected_queries(
        &self,
        dns: &DnsRedirect,
        transport: Transport,
    ) -> impl Iterator<Item = Vec<Match>> {
        self.matched_servers(dns).map(move |server| {
            server
                .map(Match::To)
                .into_iter()
                .chain([dns_query(transport)])
                .collect()
        })
    }
}

fn rule(matches: impl IntoIterator<Item = Match>, verdict: Verdict, comment: &'static str) -> Rule {
    Rule {
        matches: matches.into_iter().collect(),
        verdict,
        comment,
    }
}

/// Returns the match for DNS queries over a transport protocol.
fn dns_query(transport: Transport) -> Match {
    Match::DestinationPort(transport, PortSet::single(DNS_PORT))
}

/// Returns a rule that lets connections to these ports skip the chain, or none if the set is empty.
fn excluded_ports(ports: &PortSet) -> Vec<Rule> {
    if ports.is_empty() {
        return Vec::new();
    }
    vec![rule(
        [Match::DestinationPort(Tcp, ports.clone())],
        Verdict::Return,
        "excluded ports",
    )]
}
