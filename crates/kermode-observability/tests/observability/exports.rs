//! The exported metrics, from `docs/reference/metrics.md`. A test of `tests/reference` compares the names in this document
//! with those that the code registers, and an end-to-end test compares names and labels with a scrape.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use kermode_checkout::Checkout;

use crate::expression::Expression;

/// Labels of the scraped Pod, which Prometheus adds to every series.
const TARGET_LABELS: [&str; 3] = ["namespace", "pod", "mesh"];

/// Exported series: the labels by name.
pub(crate) struct Exports(BTreeMap<String, BTreeSet<String>>);

impl Exports {
    /// Reads the tables of the reference.
    pub(crate) fn read() -> Self {
        let path = Checkout::find().expect("a checkout").repository;
        let document = fs::read_to_string(path.join("docs/reference/metrics.md")).expect("the reference");
        let mut series = BTreeMap::new();
        for line in document.lines() {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let ["", metric, kind, labels, ..] = cells.as_slice() else {
                continue;
            };
            let code = |text: &str| Some(text.strip_prefix('`')?.strip_suffix('`')?.to_owned());
            let labels: BTreeSet<String> = labels.split(", ").filter_map(code).collect();
            let Some(name) = code(metric) else { continue };
            match *kind {
                "counter" | "gauge" => _ = series.insert(name, labels),
                "histogram" => {
                    for suffix in ["sum", "count"] {
                        series.insert(format!("{name}_{suffix}"), labels.clone());
                    }
                    let mut labels = labels;
                    labels.insert("le".to_owned());
                    series.insert(format!("{name}_bucket"), labels);
                }
                _ => {}
            }
        }
        assert!(series.len() > 50, "the tables of metrics were not found");
        Self(series)
    }

    /// Returns a problem for each metric that is not exported, and each label that no metric of the expression has.
    pub(crate) fn problems(&self, text: &str) -> Vec<String> {
        let expression = Expression::parse(text);
        let mut problems = Vec::new();
        let mut known: BTreeSet<&str> = TARGET_LABELS.into();
        for (metric, selected) in &expression.metrics {
            let Some(labels) = self.0.get(metric) else {
                problems.push(format!("{metric} is not exported: {text}"));
                continue;
            };
            for label in selected {
                if !labels.contains(label) && !TARGET_LABELS.contains(&label.as_str()) {
                    problems.push(format!("{metric} has no label {label}: {text}"));
                }
            }
            known.extend(labels.iter().map(String::as_str));
        }
        for label in expression.grouping {
            if !known.contains(label.as_str()) {
                problems.push(format!("no metric has the label {label}: {text}"));
            }
        }
        problems
    }
}

#[test]
fn unknown_metrics_and_labels_are_found() {
    let exports = Exports::read();
    for (expression, problem) in [
        (
            "rate(kuma_cp_watch_events_total[5m])",
            "kuma_cp_watch_events_total is not exported",
        ),
        (
            "kuma_cp_xds_rejections_total{type=\"Cluster\"}",
            "has no label type",
        ),
        (
            "sum by (type) (kuma_cp_xds_rejections_total)",
            "no metric has the label type",
        ),
        (
            "sum by (le) (kuma_cp_xds_acknowledgement_seconds_count)",
            "no metric has the label le",
        ),
        // The name without the suffix of a counter or histogram.
        ("kuma_cp_xds_rejections", "is not exported"),
        ("kuma_cp_xds_acknowledgement_seconds", "is not exported"),
    ] {
        let problems = exports.problems(expression);
        assert!(
            problems.len() == 1 && problems[0].contains(problem),
            "{problems:?}"
        );
    }
    let expression = "sum by (pod, kind, le) (kuma_cp_xds_acknowledgement_seconds_bucket{kind=\"Route\"})";
    assert_eq!(exports.problems(expression), Vec::<String>::new());
}
