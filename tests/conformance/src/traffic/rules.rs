//! What our rules do with a packet.

use anyhow::{Context, Result, ensure};
use kermode_netfilter::{ChainName, Hook, Match, RuleSet, Verdict};

use super::packet::{Fate, Packet};

/// Deepest nesting of chains; ours need three.
const DEEPEST: usize = 8;

/// What becomes of it, connection tracking zones first.
pub(super) fn fate(rules: &RuleSet, packet: &Packet) -> Result<Fate> {
    let hooks = if packet.sent {
        [Hook::RawOutput, Hook::NatOutput]
    } else {
        [Hook::RawPrerouting, Hook::NatPrerouting]
    };
    let mut fate = Fate::default();
    for hook in hooks {
        for chain in rules.chains.iter().filter(|chain| chain.hook == Some(hook)) {
            walk(rules, chain.name, packet, &mut fate, 0)?;
        }
    }
    Ok(fate)
}

/// Whether a rule of the chain, or of one it leads to, has decided.
fn walk(rules: &RuleSet, name: ChainName, packet: &Packet, fate: &mut Fate, depth: usize) -> Result<bool> {
    ensure!(depth < DEEPEST, "chains lead to themselves");
    let chain = rules.chains.iter().find(|chain| chain.name == name);
    for rule in &chain.context("a jump to a chain that is not there")?.rules {
        if !rule.matches.iter().all(|one| holds(one, packet)) {
            continue;
        }
        match rule.verdict {
            Verdict::Return => return Ok(false),
            Verdict::Goto(next) => return walk(rules, next, packet, fate, depth + 1),
            Verdict::Jump(next) => {
                if walk(rules, next, packet, fate, depth + 1)? {
                    return Ok(true);
                }
            }
            Verdict::Redirect(port) => {
                fate.redirect = Some(port.get());
                return Ok(true);
            }
            // Written as `ct zone set N return`.
            Verdict::Zone(zone) => {
                fate.zone = Some(zone);
                return Ok(false);
            }
        }
    }
    Ok(false)
}

fn holds(condition: &Match, packet: &Packet) -> bool {
    match condition {
        Match::V4 => packet.to.is_ipv4(),
        Match::V6 => packet.to.is_ipv6(),
        Match::OutLoopback => packet.sent && packet.loopback,
        Match::InInterface(name) => !packet.sent && name == "eth0",
        Match::Owner(users) => packet.sent && users.contains(packet.uid),
        Match::From(address) => packet.from == *address,
        Match::To(address) => packet.to == *address,
        Match::NotTo(address) => packet.to.is_ipv4() == address.is_ipv4() && packet.to != *address,
        // No case has virtual networks.
        Match::NotToNetwork(..) => false,
        Match::Protocol(transport) => packet.transport == *transport,
        Match::SourcePort(transport, port) => packet.transport == *transport && packet.source_port == *port,
        Match::Port(transport, ports) => packet.transport == *transport && ports.contains(packet.port),
        Match::NotPort(transport, port) => packet.transport == *transport && packet.port != *port,
    }
}
