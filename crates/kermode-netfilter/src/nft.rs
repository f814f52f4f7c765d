//! Writes rules as text for `nft -f`: one transaction that creates or replaces only the table `kuma_mesh`.

use std::fmt::{Display, Formatter, Result, Write};
use std::net::IpAddr;

use crate::exclusion::Transport;
use crate::ruleset::{Chain, ChainName, Hook, Match, Rule, RuleSet, Verdict};

/// Family and name of the table.
const TABLE: &str = "inet kuma_mesh";

impl Display for RuleSet {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        // Creates the table if it is missing, so that the deletion succeeds.
        writeln!(f, "table {TABLE}")?;
        writeln!(f, "delete table {TABLE}")?;
        write_table(self, f)
    }
}

impl RuleSet {
    /// Returns the text for a network namespace without the table. It fails if the table exists.
    pub(crate) fn to_new_table(&self) -> String {
        let mut text = format!("create table {TABLE}\n");
        // Writing to a string cannot fail.
        let _ = write_table(self, &mut text);
        text
    }
}

fn write_table(rules: &RuleSet, f: &mut impl Write) -> Result {
    writeln!(f, "table {TABLE} {{")?;
    for chain in &rules.chains {
        write!(f, "{chain}")?;
    }
    writeln!(f, "}}")
}

impl Display for Chain {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        writeln!(f, "\tchain {} {{", self.name)?;
        if let Some(hook) = self.hook {
            writeln!(f, "\t\t{hook}")?;
        }
        for rule in &self.rules {
            writeln!(f, "\t\t{rule}")?;
        }
        writeln!(f, "\t}}")
    }
}

impl Display for ChainName {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(match self {
            Self::RawPrerouting => "raw_prerouting",
            Self::RawOutput => "raw_output",
            Self::Prerouting => "prerouting",
            Self::Output => "output",
            Self::Inbound => "inbound",
            Self::InboundRedirect => "inbound_redirect",
            Self::Outbound => "outbound",
            Self::OutboundRedirect => "outbound_redirect",
        })
    }
}

impl Display for Hook {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(match self {
            Self::RawPrerouting => "type filter hook prerouting priority raw; policy accept;",
            Self::RawOutput => "type filter hook output priority raw; policy accept;",
            Self::NatPrerouting => "type nat hook prerouting priority dstnat; policy accept;",
            // nft has no name for this priority at this hook; -100 is the priority of iptables' nat table.
            Self::NatOutput => "type nat hook output priority -100; policy accept;",
        })
    }
}

impl Display for Rule {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        for condition in &self.matches {
            write!(f, "{condition} ")?;
        }
        write!(f, "{} comment \"{}\"", self.verdict, self.comment)
    }
}

impl Display for Match {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::V4 => f.write_str("meta nfproto ipv4"),
            Self::V6 => f.write_str("meta nfproto ipv6"),
            Self::OutLoopback => f.write_str("oifname \"lo\""),
            Self::InInterface(name) => match name.strip_suffix('+') {
                Some(start) => write!(f, "iifname \"{start}*\""),
                None => write!(f, "iifname \"{name}\""),
            },
            Self::Owner(uids) => write!(f, "meta skuid {uids}"),
            Self::ToThisHost => f.write_str("fib daddr type local"),
            Self::From(address) => write!(f, "{} saddr {address}", family(*address)),
            Self::To(address) => write!(f, "{} daddr {address}", family(*address)),
            Self::NotTo(address) => write!(f, "{} daddr != {address}", family(*address)),
            Self::NotToNetwork(address, prefix_length) => {
                write!(f, "{} daddr != {address}/{prefix_length}", family(*address))
            }
            Self::Protocol(transport) => write!(f, "meta l4proto {transport}"),
            Self::SourcePort(transport, port) => write!(f, "{transport} sport {port}"),
            Self::DestinationPort(transport, ports) => write!(f, "{transport} dport {ports}"),
            Self::NotDestinationPort(transport, port) => write!(f, "{transport} dport != {port}"),
        }
    }
}

impl Display for Verdict {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Return => f.write_str("return"),
            Self::Goto(chain) => write!(f, "goto {chain}"),
            Self::Jump(chain) => write!(f, "jump {chain}"),
            Self::Redirect(port) => write!(f, "redirect to :{port}"),
            // Once the zone is set, the later rules are not needed: `return` skips them.
            Self::Zone(zone) => write!(f, "ct zone set {zone} return"),
        }
    }
}

impl Display for Transport {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "ip" } else { "ip6" }
}
