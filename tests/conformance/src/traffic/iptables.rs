//! Parses iptables rules that `iptables-save` or the dry run of Kuma's `kumactl` has printed, and evaluates the rules
//! for a packet.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::{Context, Result, bail, ensure};
use kermode_netfilter::Transport;

use super::packet::{Disposition, Packet};

/// Rules, by the name of the table and the name of the chain.
#[derive(Debug, Default)]
pub(super) struct Tables(BTreeMap<String, BTreeMap<String, Vec<Rule>>>);

/// One rule of a chain.
#[derive(Clone, Debug)]
struct Rule {
    /// Conditions that must all hold. The boolean is true if the condition is negated (`!`).
    conditions: Vec<(bool, Condition)>,
    target: Target,
}

/// Condition on a packet. Ranges are inclusive.
#[derive(Clone, Debug)]
enum Condition {
    Protocol(Transport),
    Source(IpAddr),
    Destination(IpAddr),
    OutInterface(String),
    SourcePorts(Vec<(u16, u16)>),
    DestinationPorts(Vec<(u16, u16)>),
    /// Range of UIDs of the sending process.
    Owner(u32, u32),
}

/// Effect of a rule whose conditions hold.
#[derive(Clone, Debug)]
enum Target {
    /// Ends the evaluation of the chain.
    Return,
    /// Redirects the packet to a local port and ends the evaluation of the table.
    Redirect(u16),
    /// Assigns the packet to a connection tracking zone (target `CT`).
    Zone(u16),
    /// Evaluates another chain, then continues with the next rule unless the packet was redirected.
    Jump(String),
}

/// Maximum depth of nested chains. Kuma's rules have a depth of three, so a greater depth means a loop.
const MAX_DEPTH: usize = 8;

// === impl Tables ===

impl Tables {
    pub(super) fn parse(text: &str) -> Result<Self> {
        let mut tables = Self::default();
        let mut table = String::new();
        for line in text.lines().map(str::trim) {
            match line.split_whitespace().collect::<Vec<_>>().as_slice() {
                [first, ..] if first.starts_with('*') => {
                    line.trim_start_matches(['*', ' ']).clone_into(&mut table);
                }
                ["-A", chain, rest @ ..] => {
                    let rule = Rule::parse(rest).with_context(|| line.to_owned())?;
                    tables.chain(&table, chain).push(rule);
                }
                // Positions start at 1.
                ["-I", chain, position, rest @ ..] => {
                    let rule = Rule::parse(rest).with_context(|| line.to_owned())?;
                    let position: usize = position.parse().with_context(|| line.to_owned())?;
                    tables.chain(&table, chain).insert(position - 1, rule);
                }
                // Other lines, such as declarations of chains, contain no rule.
                _ => {}
            }
        }
        Ok(tables)
    }

    fn chain(&mut self, table: &str, chain: &str) -> &mut Vec<Rule> {
        let chains = self.0.entry(table.to_owned()).or_default();
        chains.entry(chain.to_owned()).or_default()
    }

    fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.0.values().flat_map(BTreeMap::values).flatten()
    }

    /// Returns destination ports for test packets: the bounds of the rules' ranges, the adjacent ports, and a few other
    /// ports.
    pub(super) fn ports(&self) -> Vec<u16> {
        let mut ports = BTreeSet::from([53, 80, 8080]);
        for (_, condition) in self.rules().flat_map(|rule| &rule.conditions) {
            if let Condition::DestinationPorts(ranges) = condition {
                for bound in ranges.iter().flat_map(|(first, last)| [*first, *last]) {
                    ports.extend([bound.saturating_sub(1), bound, bound.saturating_add(1)]);
                }
            }
        }
        ports.into_iter().collect()
    }

    /// Returns UIDs for test packets: the bounds of the rules' ranges, the adjacent UIDs, and a few other UIDs.
    pub(super) fn uids(&self) -> Vec<u32> {
        let mut uids = BTreeSet::from([0, 1000, 5678]);
        for (_, condition) in self.rules().flat_map(|rule| &rule.conditions) {
            if let Condition::Owner(first, last) = condition {
                for bound in [*first, *last] {
                    uids.extend([bound.saturating_sub(1), bound, bound.saturating_add(1)]);
                }
            }
        }
        uids.into_iter().collect()
    }

    /// Evaluates all rules for a packet.
    pub(super) fn disposition(&self, packet: &Packet) -> Result<Disposition> {
        let chain = if packet.is_sent { "OUTPUT" } else { "PREROUTING" };
        let mut disposition = Disposition::default();
        for table in ["raw", "nat"] {
            self.evaluate_chain(table, chain, packet, &mut disposition, 0)?;
        }
        Ok(disposition)
    }

    /// Returns whether the first rule of `nat OUTPUT` whose conditions hold for a packet has the target RETURN.
    pub(super) fn returns_in_nat_output(&self, packet: &Packet) -> Result<bool> {
        let chain = self.0.get("nat").and_then(|table| table.get("OUTPUT"));
        let mut rules = chain.context("the table nat has no chain OUTPUT")?.iter();
        let first_match = rules.find(|rule| packet.is_sent && rule.holds(packet));
        Ok(first_match.is_some_and(|rule| matches!(rule.target, Target::Return)))
    }

    /// Evaluates a chain. Returns whether the evaluation of the table ends, because the packet was redirected.
    fn evaluate_chain(
        &self,
        table: &str,
        chain: &str,
        packet: &Packet,
        disposition: &mut Disposition,
        depth: usize,
    ) -> Result<bool> {
        ensure!(
            depth < MAX_DEPTH,
            "more than {MAX_DEPTH} nested chains: the chains form a loop"
        );
        let rules = self.0.get(table).and_then(|table| table.get(chain));
        for rule in rules.into_iter().flatten().filter(|rule| rule.holds(packet)) {
            match &rule.target {
                Target::Return => return Ok(false),
                Target::Redirect(port) => {
                    disposition.redirect = Some(*port);
                    return Ok(true);
                }
                // The target CT does not end the evaluation, and later zones do not replace the first zone.
                Target::Zone(zone) => disposition.zone = disposition.zone.or(Some(*zone)),
                Target::Jump(next) => {
                    if self.evaluate_chain(table, next, packet, disposition, depth + 1)? {
                        return Ok(true);
                    }
                }
            }
        }
        Ok(false)
    }
}

// === impl Rule ===

impl Rule {
    fn parse(words: &[&str]) -> Result<Self> {
        let (mut conditions, mut target, mut is_negated) = (Vec::new(), None, false);
        let mut words = words.iter().copied();
        while let Some(word) = words.next() {
            if word == "!" {
                is_negated = true;
                continue;
            }
            let mut value = || {
                words
                    .next()
                    .with_context(|| format!("option {word} has no value"))
            };
            let condition = match word {
                // The name of a match module. The options of the module follow.
                "-m" => {
                    value()?;
                    continue;
                }
                "-j" => {
                    target = Some(match value()? {
                        "RETURN" => Target::Return,
                        // A later option sets the target.
                        "REDIRECT" | "CT" => continue,
                        chain => Target::Jump(chain.to_owned()),
                    });
                    continue;
                }
                "--to-ports" => {
                    target = Some(Target::Redirect(value()?.parse()?));
                    continue;
                }
                "--zone" => {
                    target = Some(Target::Zone(value()?.parse()?));
                    continue;
                }
                "-p" => Condition::Protocol(transport(value()?)?),
                "-s" => Condition::Source(single_address(value()?)?),
                "-d" => Condition::Destination(single_address(value()?)?),
                "-o" => Condition::OutInterface(value()?.to_owned()),
                "--sport" => Condition::SourcePorts(port_ranges(value()?)?),
                "--dport" | "--dports" => Condition::DestinationPorts(port_ranges(value()?)?),
                "--uid-owner" => {
                    let (first, last) = range(value()?, &['-', ':']);
                    Condition::Owner(first.parse()?, last.parse()?)
                }
                other => bail!("option {other} is not supported"),
            };
            conditions.push((std::mem::take(&mut is_negated), condition));
        }
        Ok(Self {
            conditions,
            target: target.context("the rule has no target")?,
        })
    }

    fn holds(&self, packet: &Packet) -> bool {
        let mut conditions = self.conditions.iter();
        conditions.all(|(is_negated, condition)| condition.holds(packet) != *is_negated)
    }
}

// === impl Condition ===

impl Condition {
    fn holds(&self, packet: &Packet) -> bool {
        let within = |ranges: &[(u16, u16)], port: u16| {
            ranges
                .iter()
                .any(|(first, last)| (*first..=*last).contains(&port))
        };
        match self {
            Self::Protocol(transport) => packet.transport == *transport,
            Self::Source(address) => packet.source == *address,
            Self::Destination(address) => packet.destination == *address,
            // A packet leaves either on `lo` or on the only other interface.
            Self::OutInterface(name) => packet.is_sent && (name == "lo") == packet.is_loopback,
            Self::SourcePorts(ranges) => within(ranges, packet.source_port),
            Self::DestinationPorts(ranges) => within(ranges, packet.destination_port),
            Self::Owner(first, last) => packet.is_sent && (*first..=*last).contains(&packet.uid),
        }
    }
}

fn transport(word: &str) -> Result<Transport> {
    match word {
        "tcp" => Ok(Transport::Tcp),
        "udp" => Ok(Transport::Udp),
        other => bail!("protocol {other} is not supported"),
    }
}

/// Parses an address, with an optional prefix length that selects only this address.
fn single_address(text: &str) -> Result<IpAddr> {
    let (address, prefix_length) = text.split_once('/').unwrap_or((text, ""));
    ensure!(
        ["", "32", "128"].contains(&prefix_length),
        "{text} is a network of several addresses, which is not supported"
    );
    Ok(address.parse()?)
}

fn port_ranges(text: &str) -> Result<Vec<(u16, u16)>> {
    let parse = |item| {
        let (first, last) = range(item, &[':', '-']);
        Ok((first.parse()?, last.parse()?))
    };
    text.split(',').map(parse).collect()
}

/// Splits a range into its bounds, at one of the separators. A single number is both bounds.
fn range<'t>(text: &'t str, separators: &[char]) -> (&'t str, &'t str) {
    text.split_once(separators).unwrap_or((text, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(destination_port: u16, uid: u32, is_loopback: bool) -> Packet {
        Packet {
            is_sent: true,
            is_loopback,
            transport: Transport::Tcp,
            source: "10.0.0.1".parse().expect("an address"),
            destination: "10.0.0.2".parse().expect("an address"),
            source_port: 1,
            destination_port,
            uid,
        }
    }

    #[test]
    fn rules_are_evaluated_in_order_and_evaluation_continues_after_a_chain_returns() {
        let text = "*raw\n-A OUTPUT -p tcp -j CT --zone 1\n-A OUTPUT -p tcp -j CT --zone 2\n*nat\n\
            -A OUTPUT -p tcp -j CUSTOM\n-A OUTPUT -p tcp -j REDIRECT --to-ports 3\n\
            -A CUSTOM ! -d 10.0.0.3/32 -o lo -j RETURN\n\
            -A CUSTOM -m multiport --dports 5,7:9 -m owner ! --uid-owner 6-8 -j REDIRECT --to-ports 2\n\
            -I OUTPUT 1 -p tcp --dport 1 -j RETURN\n";
        let tables = Tables::parse(text).expect("rules");
        for (port, uid, is_loopback, redirect) in [
            (1, 0, false, None),
            (8, 0, false, Some(2)),
            (8, 7, false, Some(3)),
            (8, 0, true, Some(3)),
            (6, 0, false, Some(3)),
        ] {
            let disposition = tables
                .disposition(&packet(port, uid, is_loopback))
                .expect("no loop");
            assert_eq!(
                disposition,
                Disposition {
                    redirect,
                    zone: Some(1)
                },
                "{port} {uid} {is_loopback}"
            );
        }
    }

    #[test]
    fn unsupported_or_incomplete_rule_is_an_error() {
        for line in [
            "-A OUTPUT -j",
            "-A OUTPUT -x 1 -j RETURN",
            "-A OUTPUT -p tcp",
            "-A OUTPUT -d 10.0.0.0/8 -j RETURN",
        ] {
            assert!(Tables::parse(&format!("*nat\n{line}")).is_err(), "{line}");
        }
    }
}
