//! Comparison of expressions with the exported metrics.

use std::collections::BTreeSet;

use kermode_checkout::Checkout;
use kermode_reference::metrics::{ExportedSeries, TARGET_LABELS};

use crate::expression::Expression;

/// Reads the reference of metrics.
pub(crate) fn exported_series() -> ExportedSeries {
    let repository = Checkout::find().expect("a checkout").repository;
    let series = ExportedSeries::read(&repository).expect("the reference");
    assert!(
        series.names().count() > 50,
        "the tables of metrics were not found"
    );
    series
}

/// Returns a problem for each metric that is not exported, and each label that no metric of the expression has.
pub(crate) fn problems(exported: &ExportedSeries, text: &str) -> Vec<String> {
    let expression = Expression::parse(text);
    let mut problems = Vec::new();
    let mut known: BTreeSet<&str> = TARGET_LABELS.into();
    for (metric, selected) in &expression.metrics {
        let Some(labels) = exported.labels(metric) else {
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

#[test]
fn unknown_metrics_and_labels_are_found() {
    let exported = exported_series();
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
        let problems = problems(&exported, expression);
        assert!(
            problems.len() == 1 && problems[0].contains(problem),
            "{problems:?}"
        );
    }
    let expression = "sum by (pod, kind, le) (kuma_cp_xds_acknowledgement_seconds_bucket{kind=\"Route\"})";
    assert_eq!(problems(&exported, expression), Vec::<String>::new());
}
