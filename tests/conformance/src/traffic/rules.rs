//! Evaluates Kermode's nftables rules for a packet.

use anyhow::{Context, Result, ensure};
use kermode_netfilter::{ChainName, Hook, Match, RuleSet, Verdict};

use super::packet::{Disposition, Packet};

/// Maximum depth of nested chains. Kermode's rules have a depth of three, so a greater depth means a loop.
const MAX_DEPTH: usize = 8;

/// Evaluates all rules for a packet. The hooks that assign connection tracking zones come before the hooks that
/// redirect.
pub(super) fn disposition(rules: &RuleSet, packet: &Packet) -> Result<Disposition> {
    let hooks = if packet.is_sent {
        [Hook::RawOutput, Hook::NatOutput]
    } else {
        [Hook::RawPrerouting, Hook::NatPrerouting]
    };
    let mut disposition = Disposition::default();
    for hook in hooks {
        for chain in rules.chains.iter().filter(|chain| chain.hook == Some(hook)) {
            evaluate_chain(rules, chain.name, packet, &mut disposition, 0)?;
        }
    }
    Ok(disposition)
}

/// Evaluates a chain. Returns whether a rule redirected the packet, which ends the evaluation of the hook.
fn evaluate_chain(
    rules: &RuleSet,
    name: ChainName,
    packet: &Packet,
    disposition: &mut Disposition,
    depth: usize,
) -> Result<bool> {
    ensure!(
        depth < MAX_DEPTH,
        "more than {MAX_DEPTH} nested chains: the chains form a loop"
    );
    let chain = rules.chains.iter().find(|chain| chain.name == name);
    for rule in &chain
        .context("a rule jumps to a chain that does not exist")?
        .rules
    {
        if !rule.matches.iter().all(|condition| holds(condition, packet)) {
            continue;
        }
        match rule.verdict {
            Verdict::Return => return Ok(false),
            Verdict::Goto(next) => return evaluate_chain(rules, next, packet, disposition, depth + 1),
            Verdict::Jump(next) => {
                if evaluate_chain(rules, next, packet, disposition, depth + 1)? {
                    return Ok(true);
                }
            }
            Verdict::Redirect(port) => {
                disposition.redirect = Some(port.get());
                return Ok(true);
            }
            // The rule's text is `ct zone set N return`.
            Verdict::Zone(zone) => {
                disposition.zone = Some(zone);
                return Ok(false);
            }
        }
    }
    Ok(false)
}

fn holds(condition: &Match, packet: &Packet) -> bool {
    match condition {
        Match::V4 => packet.destination.is_ipv4(),
        Match::V6 => packet.destination.is_ipv6(),
        Match::OutLoopback => packet.is_sent && packet.is_loopback,
        Match::InInterface(name) => !packet.is_sent && name == "eth0",
        Match::Owner(uids) => packet.is_sent && uids.contains(packet.uid),
        // Every received packet of the corpus is addressed to the Pod.
        Match::ToThisHost => !packet.is_sent,
        Match::From(address) => packet.source == *address,
        Match::To(address) => packet.destination == *address,
        Match::NotTo(address) => {
            packet.destination.is_ipv4() == address.is_ipv4() && packet.destination != *address
        }
        // Only rules for virtual networks have this condition, and no case of the corpus has a virtual network.
        Match::NotToNetwork(..) => false,
        Match::Protocol(transport) => packet.transport == *transport,
        Match::SourcePort(transport, port) => packet.transport == *transport && packet.source_port == *port,
        Match::DestinationPort(transport, ports) => {
            packet.transport == *transport && ports.contains(packet.destination_port)
        }
        Match::NotDestinationPort(transport, port) => {
            packet.transport == *transport && packet.destination_port != *port
        }
    }
}
