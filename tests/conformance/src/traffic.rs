//! Suite `transparent-proxy`, rules: Kuma uses iptables and Kermode nftables, so the suite compares the disposition of packets,
//! one packet for each kind that the rules of either side distinguish.

mod iptables;
mod packet;
mod rules;

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use kermode_netfilter::{DnsRedirect, IpFamilies, RuleSet, TrafficConfig};
use serde_json::{Value, json};

use crate::corpus::Case;
use crate::suite::{Outcome, Runner};
use iptables::Tables;
use packet::{Disposition, Packet};

/// Runner of the rule cases.
pub(crate) struct Traffic;

impl Runner for Traffic {
    fn suite(&self) -> &'static str {
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
            return Ok(Outcome::Skipped(
                "exclusions by address are a feature of Kuma 3.0".to_owned(),
            ));
        }
        match case.kind() {
            "dry-run-rules" | "iptables-save" => compare_all_rules(case),
            "uid-exclusion-rules" => compare_exclusion(case),
            "uid-exclusion-error" => Ok(denial(&annotated(case).map(drop), &Value::Null)),
            "arg-error" => {
                let part = &case.at("/expectedError")["contains"];
                Ok(denial(&configured(case).map(drop), part))
            }
            "known-bad" => Ok(Outcome::Skipped(
                "documents a defect of Kuma that Kermode does not reproduce".to_owned(),
            )),
            kind => bail!("unknown kind {kind:?}"),
        }
    }
}

fn denial(result: &Result<()>, part: &Value) -> Outcome {
    let actual = match result {
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

/// Returns the settings of a case: arguments of `kuma-init`, or annotations of an injected Pod.
fn configured(case: &Case<'_>) -> Result<TrafficConfig> {
    if !case.at("/inputs/podAnnotations").is_null() {
        let mut annotations: BTreeMap<String, String> = case.decode("/inputs/podAnnotations")?;
        annotations.extend(case.decode::<BTreeMap<String, String>>("/inputs/injected")?);
        return Ok(TrafficConfig::from_annotations(&annotations)?);
    }
    let arguments: Vec<String> = case.decode("/inputs/args")?;
    let mut resolved = Vec::new();
    for (index, argument) in arguments.iter().enumerate() {
        // `kuma-dp (uid 5678)` is a user name of the machine on which the case was recorded.
        let uid = argument
            .strip_prefix("kuma-dp (uid ")
            .and_then(|rest| rest.strip_suffix(')'));
        let is_name = arguments
            .get(index + 1)
            .is_some_and(|next| next.starts_with("kuma-dp (uid "));
        resolved.push(match uid {
            Some(uid) => uid,
            None if is_name => "--kuma-dp-uid",
            None => argument.as_str(),
        });
    }
    kuma_init::traffic_config(&resolved)
}

/// Returns the settings of an injected Pod with one annotation and DNS redirection.
fn annotated(case: &Case<'_>) -> Result<TrafficConfig> {
    let key: String = case.decode("/inputs/annotation")?;
    let annotations = BTreeMap::from([(key, case.decode("/inputs/value")?)]);
    let mut config = TrafficConfig::from_annotations(&annotations)?;
    config.dns = Some(DnsRedirect::all(DnsRedirect::DEFAULT_PORT));
    Ok(config)
}

/// Compares all rules of a Pod.
fn compare_all_rules(case: &Case<'_>) -> Result<Outcome> {
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
    compared(&tables, &rules, v6, |packet| tables.disposition(packet))
}

/// Compares the rules of one exclusion: packets that match are not redirected, others are treated as without the
/// exclusion.
fn compare_exclusion(case: &Case<'_>) -> Result<Outcome> {
    let lines: Vec<String> = case.decode("/expected/natOutputRules")?;
    let tables = Tables::parse(&format!("*nat\n{}\n", lines.join("\n")))?;
    let mut config = annotated(case)?;
    let rules = RuleSet::new(&config, IpFamilies::DualStack);
    config.outbound.excluded_uids.clear();
    let without = RuleSet::new(&config, IpFamilies::DualStack);
    compared(&tables, &rules, false, |packet| {
        let plain = rules::disposition(&without, packet)?;
        let redirect = if tables.returns(packet)? {
            None
        } else {
            plain.redirect
        };
        Ok(Disposition { redirect, ..plain })
    })
}

/// Evaluates every kind of packet with both sets of rules.
fn compared(
    tables: &Tables,
    rules: &RuleSet,
    v6: bool,
    expected: impl Fn(&Packet) -> Result<Disposition>,
) -> Result<Outcome> {
    let mut differing: BTreeMap<String, Value> = BTreeMap::new();
    let (mut redirected, mut passed) = (0, 0);
    for packet in packet::all(&tables.ports(), &tables.users(), v6) {
        let kuma = expected(&packet).with_context(|| packet.to_string())?;
        let kermode = rules::disposition(rules, &packet)?;
        if kuma.redirect.is_some() {
            redirected += 1;
        } else {
            passed += 1;
        }
        if kuma != kermode {
            let example = || json!({"packets": 0, "such as": packet.to_string()});
            let kind = format!("{kermode}, expected {kuma}");
            let kind = differing.entry(kind).or_insert_with(example);
            kind["packets"] = (kind["packets"].as_u64().unwrap_or_default() + 1).into();
        }
    }
    ensure!(
        redirected > 100 && passed > 100,
        "the packets do not cover both cases: {redirected} redirected, {passed} not redirected"
    );
    Ok(Outcome::Compared {
        expected: json!({"different disposition": {}}),
        actual: json!({"different disposition": differing}),
    })
}
