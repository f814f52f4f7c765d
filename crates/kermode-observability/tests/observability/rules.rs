//! Alert rules: their expressions, the tests of when they fire, and their runbooks.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use kermode_checkout::Checkout;
use kermode_observability::RULES;
use serde_json::Value;

use crate::exports::{exported_series, problems};
use crate::promtool;

/// Subsections of a runbook.
const SUBJECTS: [&str; 4] = ["Meaning", "Impact", "Diagnosis", "Remedy"];

fn folder() -> PathBuf {
    let root = Checkout::find().expect("a checkout").repository;
    root.join("crates/kermode-observability/rules")
}

fn alerts() -> Vec<Value> {
    let rules: Value = serde_saphyr::from_str(RULES).expect("YAML");
    let groups = rules["groups"].as_array().expect("groups");
    let alerts = groups
        .iter()
        .flat_map(|group| group["rules"].as_array().expect("rules"));
    alerts.cloned().collect()
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap_or_else(|| panic!("no {key}: {value}"))
}

#[test]
fn prometheus_accepts_the_rules() {
    promtool::run(&folder(), &["check", "rules", "kermode.rules.yaml"]);
}

#[test]
fn alerts_fire_when_they_should_and_only_then() {
    promtool::run(&folder(), &["test", "rules", "kermode.tests.yaml"]);
}

#[test]
fn every_alert_has_a_test_in_which_it_fires_and_one_in_which_it_does_not() {
    let tests = fs::read_to_string(folder().join("kermode.tests.yaml")).expect("the tests");
    let tests: Value = serde_saphyr::from_str(&tests).expect("YAML");
    let (mut firing, mut silent) = (BTreeSet::new(), BTreeSet::new());
    for test in tests["tests"].as_array().expect("tests") {
        for case in test["alert_rule_test"].as_array().expect("cases") {
            let fires = case["exp_alerts"]
                .as_array()
                .is_some_and(|alerts| !alerts.is_empty());
            let alerts = if fires { &mut firing } else { &mut silent };
            alerts.insert(text(case, "alertname").to_owned());
        }
    }
    let names: BTreeSet<String> = alerts()
        .iter()
        .map(|alert| text(alert, "alert").to_owned())
        .collect();
    assert_eq!(
        firing, names,
        "alerts that fire in a test (left) and all alerts (right)"
    );
    assert_eq!(
        silent, names,
        "alerts that are silent in a test (left) and all alerts (right)"
    );
}

#[test]
fn rules_use_only_exported_metrics_and_labels() {
    let exported = exported_series();
    let found: Vec<String> = alerts()
        .iter()
        .flat_map(|alert| problems(&exported, text(alert, "expr")))
        .collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn every_alert_has_a_severity_and_texts() {
    for alert in alerts() {
        let severity = text(&alert["labels"], "severity");
        assert!(["critical", "warning", "info"].contains(&severity), "{alert}");
        for key in ["summary", "description"] {
            assert!(
                text(&alert["annotations"], key).ends_with('.'),
                "{key} of {alert}"
            );
        }
    }
}

#[test]
fn every_alert_has_a_runbook_and_every_runbook_an_alert() {
    let root = Checkout::find().expect("a checkout").repository;
    let document = fs::read_to_string(root.join("docs/runbooks.md")).expect("the runbooks");
    let sections: Vec<(&str, &str)> = document
        .split("\n## ")
        .skip(1)
        .filter_map(|section| section.split_once('\n'))
        .collect();
    let names: Vec<String> = alerts()
        .iter()
        .map(|alert| text(alert, "alert").to_owned())
        .collect();
    let titles: Vec<&str> = sections.iter().map(|(title, _)| *title).collect();
    assert_eq!(
        titles, names,
        "sections of docs/runbooks.md (left) and alerts (right), in order"
    );
    for (title, body) in sections {
        for subject in SUBJECTS {
            assert!(
                body.contains(&format!("**{subject}.**")),
                "{title} has no {subject}"
            );
        }
    }
}
