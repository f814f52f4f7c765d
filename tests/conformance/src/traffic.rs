//! Suite `transparent-proxy`, the rules: Kuma's are for iptables, ours for nftables, so what is compared is what becomes
//! of packets, of every kind that either side tells apart.

mod iptables;
mod packet;
mod rules;

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use kermode_netfilter::{DnsRedirect, IpFamilies, RuleSet, TrafficConfig};
use serde_json::{Value, json};

use crate::corpus::Case;
use crate::suite::{Outcome, Suite};
use iptables::Tables;
use packet::{Fate, Packet};

/// Runner of these cases.
pub(crate) struct Traffic;

impl Suite for Traffic {
    fn name(&self) -> &'static str {
        "transparent-proxy"
    }

    fn kinds(&self) -> &'static [&'static str] {
        &[
            "dry-run-rules",
            "iptables-save",
            "uid-exclusion-rules",
            "uid-exclusion-error",
            "arg-error",
            "known-bad",
        ]
    }

    fn run(&self, case: &Case<'_>) -> Result<Outcome> {
        let arguments = case.at("/inputs/args").as_array().into_iter().flatten();
        if arguments
            .into_iter()
            .any(|argument| argument == "--exclude-outbound-ips")
        {
            return Ok(Outcome::Skipped("exclusions by address came with 3.0".to_owned()));
        }
        match case.kind() {
            "dry-run-rules" | "iptables-save" => saved(case),
            "uid-exclusion-rules" => exclusion(case),
            "uid-exclusion-error" => Ok(refused(&annotated(case).map(drop), &Value::Null)),
            "arg-error" => {
                let part = &case.at("/expectedError")["contains"];
                Ok(refused(&configured(case).map(drop), part))
            }
            "known-bad" => Ok(Outcome::Skipped(
                "documents a defect, not to be reproduced".to_owned(),
            )),
            kind => bail!("unknown kind {kind:?}"),
        }
    }
}

fn refused(answer: &Result<()>, part: &Value) -> Outcome {
    let actual = match answer {
        Ok(()) => json!("accepted"),
        Err(error) => {
            let text = format!("{error:#}");
            let part = part.as_str().unwrap_or_default();
            json!({"refused, with": if text.contains(part) { part.to_owned() } else { text }})
        }
    };
    let expected = json!({"refused, with": part.as_str().unwrap_or_default()});
    Outcome::Compared { expected, actual }
}

/// The settings of a case: arguments of `kuma-init`, or annotations of an injected Pod.
fn configured(case: &Case<'_>) -> Result<TrafficConfig> {
    if !case.at("/inputs/podAnnotations").is_null() {
        let mut annotations: BTreeMap<String, String> = case.decode("/inputs/podAnnotations")?;
        annotations.extend(case.decode::<BTreeMap<String, String>>("/inputs/injected")?);
        return Ok(TrafficConfig::from_annotations(&annotations)?);
    }
    let arguments: Vec<String> = case.decode("/inputs/args")?;
    let mut known = Vec::new();
    for (index, argument) in arguments.iter().enumerate() {
        // `kuma-dp (uid 5678)`: a user of the machine on which the case was made.
        let uid = argument
            .strip_prefix("kuma-dp (uid ")
            .and_then(|rest| rest.strip_suffix(')'));
        let is_name = arguments
            .get(index + 1)
            .is_some_and(|next| next.starts_with("kuma-dp (uid "));
        known.push(match uid {
            Some(uid) => uid,
            None if is_name => "--kuma-dp-uid",
            None => argument.as_str(),
        });
    }
    kuma_init::traffic_config(&known)
}

/// Settings with one annotation, as of an injected Pod with DNS.
fn annotated(case: &Case<'_>) -> Result<TrafficConfig> {
    let key: String = case.decode("/inputs/annotation")?;
    let annotations = BTreeMap::from([(key, case.decode("/inputs/value")?)]);
    let mut config = TrafficConfig::from_annotations(&annotations)?;
    config.dns = Some(DnsRedirect::all(DnsRedirect::DEFAULT_PORT));
    Ok(config)
}

/// Rules of the whole pod.
fn saved(case: &Case<'_>) -> Result<Outcome> {
    let config = configured(case)?;
    let v6 = case.at("/inputs/family") == "ipv6";
    let text = case.document.text(case.file_name("expected")?)?;
    let text = text
        .replace("inboundPort", &config.inbound.port.to_string())
        .replace("dnsJumpTargetPlaceholder", "RETURN")
        .replace("ifPlaceholder", "lo")
        .replace("-s subnetPlaceholder/mask", "-s 127.0.0.6/32")
        .replace("-d subnetPlaceholder/mask", "-d 127.0.0.1/32");
    let tables = Tables::parse(&text)?;
    let rules = RuleSet::new(&config, IpFamilies::DualStack);
    compared(&tables, &rules, v6, |packet| tables.fate(packet))
}

/// Rules of the exclusion alone: what they match is left alone, everything else is as without them.
fn exclusion(case: &Case<'_>) -> Result<Outcome> {
    let lines: Vec<String> = case.decode("/expected/natOutputRules")?;
    let tables = Tables::parse(&format!("*nat\n{}\n", lines.join("\n")))?;
    let mut config = annotated(case)?;
    let rules = RuleSet::new(&config, IpFamilies::DualStack);
    config.outbound.excluded_uids.clear();
    let without = RuleSet::new(&config, IpFamilies::DualStack);
    compared(&tables, &rules, false, |packet| {
        let plain = rules::fate(&without, packet)?;
        let redirect = if tables.returns(packet)? {
            None
        } else {
            plain.redirect
        };
        Ok(Fate { redirect, ..plain })
    })
}

/// Sends every kind of packet through both.
fn compared(
    tables: &Tables,
    rules: &RuleSet,
    v6: bool,
    expected: impl Fn(&Packet) -> Result<Fate>,
) -> Result<Outcome> {
    let mut differing: BTreeMap<String, Value> = BTreeMap::new();
    let (mut redirected, mut left_alone) = (0, 0);
    for packet in packet::all(&tables.ports(), &tables.users(), v6) {
        let theirs = expected(&packet).with_context(|| packet.to_string())?;
        let ours = rules::fate(rules, &packet)?;
        if theirs.redirect.is_some() {
            redirected += 1;
        } else {
            left_alone += 1;
        }
        if theirs != ours {
            let example = || json!({"packets": 0, "such as": packet.to_string()});
            let kind = format!("{ours}, expected {theirs}");
            let kind = differing.entry(kind).or_insert_with(example);
            kind["packets"] = (kind["packets"].as_u64().unwrap_or_default() + 1).into();
        }
    }
    ensure!(
        redirected > 100 && left_alone > 100,
        "packets of one kind only: {redirected} redirected, {left_alone} left alone"
    );
    Ok(Outcome::Compared {
        expected: json!({"another fate": {}}),
        actual: json!({"another fate": differing}),
    })
}
