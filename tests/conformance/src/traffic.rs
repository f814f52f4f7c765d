//! Suite `transparent-proxy`, kinds about redirection rules. Kuma has iptables rules and Kermode has nftables rules, so
//! their texts cannot be compared. Instead, both sets of rules are evaluated for many packets, and their effects on
//! each packet, called dispositions, are compared.

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

/// Runner of the kinds about redirection rules.
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
        let mut arguments = case.at("/inputs/args").as_array().into_iter().flatten();
        if arguments.any(|argument| argument == "--exclude-outbound-ips") {
            return Ok(Outcome::Skipped(
                "Kermode does not have Kuma 3.0's exclusions by address".to_owned(),
            ));
        }
        match case.kind() {
            "dry-run-rules" | "iptables-save" => compare_all_rules(case),
            "uid-exclusion-rules" => compare_uid_exclusion(case),
            "uid-exclusion-error" => Ok(compared_error(
                &config_from_annotation(case).map(drop),
                &Value::Null,
            )),
            "arg-error" => {
                let expected_part = &case.at("/expectedError")["contains"];
                Ok(compared_error(&config(case).map(drop), expected_part))
            }
            "known-bad" => Ok(Outcome::Skipped(
                "documents a defect of Kuma that Kermode does not reproduce".to_owned(),
            )),
            kind => bail!("unknown kind {kind:?}"),
        }
    }
}

/// Compares the error of `result` with the part of its text that the case expects. `expected_part` is null if the case
/// accepts any error.
fn compared_error(result: &Result<()>, expected_part: &Value) -> Outcome {
    let expected_part = expected_part.as_str().unwrap_or_default();
    let actual = match result {
        Ok(()) => json!("accepted"),
        Err(error) => {
            let text = format!("{error:#}");
            let actual_part = if text.contains(expected_part) {
                expected_part
            } else {
                text.as_str()
            };
            json!({"rejected, with": actual_part})
        }
    };
    let expected = json!({"rejected, with": expected_part});
    Outcome::Compared { expected, actual }
}

/// Returns the redirection settings of a case, from arguments of `kuma-init` or from annotations of an injected Pod.
/// The annotations are the user's (`/inputs/podAnnotations`) and the injector's (`/inputs/injected`).
fn config(case: &Case<'_>) -> Result<TrafficConfig> {
    if !case.at("/inputs/podAnnotations").is_null() {
        let mut annotations: BTreeMap<String, String> = case.decode("/inputs/podAnnotations")?;
        annotations.extend(case.decode::<BTreeMap<String, String>>("/inputs/injected")?);
        return Ok(TrafficConfig::from_annotations(&annotations)?);
    }
    let arguments: Vec<String> = case.decode("/inputs/args")?;
    let mut kermode_arguments = Vec::new();
    for (index, argument) in arguments.iter().enumerate() {
        // In the corpus, an argument that is a user name has the form `kuma-dp (uid 5678)`. kuma-init accepts only a
        // UID, with the flag --kuma-dp-uid.
        let uid = argument
            .strip_prefix("kuma-dp (uid ")
            .and_then(|rest| rest.strip_suffix(')'));
        let is_user_flag = arguments
            .get(index + 1)
            .is_some_and(|next| next.starts_with("kuma-dp (uid "));
        kermode_arguments.push(match uid {
            Some(uid) => uid,
            None if is_user_flag => "--kuma-dp-uid",
            None => argument.as_str(),
        });
    }
    kuma_init::traffic_config(&kermode_arguments)
}

/// Returns the redirection settings of an injected Pod with one annotation, and with DNS redirection.
fn config_from_annotation(case: &Case<'_>) -> Result<TrafficConfig> {
    let key: String = case.decode("/inputs/annotation")?;
    let annotations = BTreeMap::from([(key, case.decode("/inputs/value")?)]);
    let mut config = TrafficConfig::from_annotations(&annotations)?;
    config.dns = Some(DnsRedirect::all(DnsRedirect::DEFAULT_PORT));
    Ok(config)
}

/// Compares all rules of a Pod.
fn compare_all_rules(case: &Case<'_>) -> Result<Outcome> {
    let config = config(case)?;
    let is_ipv6 = case.at("/inputs/family") == "ipv6";
    let text = case.suite.text(case.file_name("expected")?)?;
    // Kuma's rules in the corpus contain placeholders.
    let text = text
        .replace("inboundPort", &config.inbound.port.to_string())
        .replace("dnsJumpTargetPlaceholder", "RETURN")
        .replace("ifPlaceholder", "lo")
        .replace("-s subnetPlaceholder/mask", "-s 127.0.0.6/32")
        .replace("-d subnetPlaceholder/mask", "-d 127.0.0.1/32");
    let tables = Tables::parse(&text)?;
    let rules = RuleSet::new(&config, IpFamilies::DualStack);
    compare_dispositions(&tables, &rules, is_ipv6, |packet| tables.disposition(packet))
}

/// Compares the rules of one exclusion by UID. The corpus contains only the rules that the exclusion adds. If the first
/// of these rules that matches a packet has the target RETURN, the packet must not be redirected. For all other
/// packets, the expected disposition is Kermode's disposition without the exclusion.
fn compare_uid_exclusion(case: &Case<'_>) -> Result<Outcome> {
    let lines: Vec<String> = case.decode("/expected/natOutputRules")?;
    let tables = Tables::parse(&format!("*nat\n{}\n", lines.join("\n")))?;
    let mut config = config_from_annotation(case)?;
    let rules = RuleSet::new(&config, IpFamilies::DualStack);
    config.outbound.uid_exclusions.clear();
    let rules_without_exclusion = RuleSet::new(&config, IpFamilies::DualStack);
    compare_dispositions(&tables, &rules, false, |packet| {
        let without_exclusion = rules::disposition(&rules_without_exclusion, packet)?;
        let redirect = if tables.returns_in_nat_output(packet)? {
            None
        } else {
            without_exclusion.redirect
        };
        Ok(Disposition {
            redirect,
            ..without_exclusion
        })
    })
}

/// Evaluates Kermode's rules for many packets, and compares their dispositions with the expected dispositions. The
/// destination ports and UIDs of the packets come from `tables`.
fn compare_dispositions(
    tables: &Tables,
    rules: &RuleSet,
    is_ipv6: bool,
    expected_disposition: impl Fn(&Packet) -> Result<Disposition>,
) -> Result<Outcome> {
    let mut differences: BTreeMap<String, Value> = BTreeMap::new();
    let mut redirected = 0;
    let mut not_redirected = 0;
    for packet in packet::all(&tables.ports(), &tables.uids(), is_ipv6) {
        let expected = expected_disposition(&packet).with_context(|| packet.to_string())?;
        let actual = rules::disposition(rules, &packet)?;
        if expected.redirect.is_some() {
            redirected += 1;
        } else {
            not_redirected += 1;
        }
        if expected != actual {
            let new_entry = || json!({"packets": 0, "such as": packet.to_string()});
            let difference = format!("{actual}, expected {expected}");
            let entry = differences.entry(difference).or_insert_with(new_entry);
            entry["packets"] = (entry["packets"].as_u64().unwrap_or_default() + 1).into();
        }
    }
    ensure!(
        redirected > 100 && not_redirected > 100,
        "too few test packets: {redirected} are redirected, {not_redirected} are not redirected"
    );
    Ok(Outcome::Compared {
        expected: json!({"different disposition": {}}),
        actual: json!({"different disposition": differences}),
    })
}
