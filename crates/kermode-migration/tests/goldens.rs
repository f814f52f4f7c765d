//! Reports on objects written for Kuma 2.x, compared with goldens. `UPDATE_GOLDENS=1` rewrites the goldens.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a failed expectation fails the test"
)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use kermode_config::Config;
use kermode_manifests::documents;
use kermode_migration::{RULES, Report, Settings, Verdict, report, system_namespace};
use serde_json::Value;

const INPUTS: [&str; 3] = ["configuration", "mesh", "shop"];
/// Helm values of a chart that has only these.
const HELM_VALUES: [&str; 4] = [
    "controlPlane.replicas",
    "controlPlane.envVars",
    "cni.enabled",
    "cni.chained",
];

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/goldens")
        .join(name)
}

fn report_on(text: &str) -> Report {
    let objects: Vec<Value> = documents::objects(&documents::parse(text).expect("YAML"));
    let mut config = Config::default();
    if let Some(namespace) = system_namespace(&objects) {
        namespace.clone_into(&mut config.store.kubernetes.system_namespace);
    }
    let settings = Settings {
        config,
        helm_values: HELM_VALUES.to_vec(),
        default_namespace: "default".to_owned(),
    };
    report(&objects, &settings)
}

fn report_of(name: &str) -> Report {
    let text = std::fs::read_to_string(path(&format!("{name}.input.yaml"))).expect("an input");
    report_on(&text)
}

#[test]
fn reports_match_their_goldens() {
    for name in INPUTS {
        let report = report_of(name).to_text();
        let golden = path(&format!("{name}.golden.txt"));
        if std::env::var_os("UPDATE_GOLDENS").is_some() {
            std::fs::write(&golden, &report).expect("the golden can be written");
        }
        let expected = std::fs::read_to_string(&golden).unwrap_or_default();
        assert_eq!(report, expected, "{name}: UPDATE_GOLDENS=1 rewrites the golden");
    }
}

#[test]
fn every_identifier_is_in_a_report_with_its_verdict() {
    let mut found = BTreeSet::new();
    for name in INPUTS {
        for object in report_of(name).objects {
            let worst = object.findings.iter().map(|finding| finding.verdict).max();
            assert_eq!(Some(object.verdict), worst, "{}", object.object);
            found.extend(
                object
                    .findings
                    .iter()
                    .map(|finding| (finding.id, finding.verdict)),
            );
        }
    }
    let declared: BTreeSet<(&str, Verdict)> = RULES.iter().map(|rule| (rule.id, rule.verdict)).collect();
    assert_eq!(found, declared, "left: in the reports, right: declared");
    assert_eq!(RULES.len(), declared.len(), "an identifier is declared twice");
}

#[test]
fn unrelated_objects_need_no_work() {
    let report = report_on(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n---\napiVersion: v1\nkind: Service\n",
    );
    assert_eq!((report.objects.len(), report.unrelated), (0, 2));
    assert!(!report.needs_work());
}

#[test]
fn values_of_objects_cannot_control_the_terminal() {
    let report = report_on(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a, annotations: {\"kuma.io/a\\e[2J\": b}}\nspec: {containers: []}\n",
    );
    let text = report.to_text();
    assert!(text.contains("kuma.io/a [2J"), "{text}");
    assert!(!text.contains('\u{1b}'));
}
