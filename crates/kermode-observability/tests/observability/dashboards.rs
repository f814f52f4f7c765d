//! Dashboards: their expressions, and the structure that Grafana expects.

use std::collections::BTreeSet;

use kermode_observability::{DASHBOARDS, GRAPH_WINDOW};
use serde_json::{Value, json};

use crate::exports::{exported_series, problems};
use crate::promtool;

/// Returns an expression or selector as Grafana sends it.
fn expanded(expression: &str) -> String {
    expression.replace(GRAPH_WINDOW, "5m")
}

#[test]
fn prometheus_accepts_every_expression() {
    let targets = DASHBOARDS.iter().flat_map(|dashboard| dashboard.targets());
    let rules: Vec<Value> = targets
        .enumerate()
        .map(|(number, target)| json!({"record": format!("expression_{number}"), "expr": expanded(target.expr)}))
        .collect();
    assert!(rules.len() > 50, "the expressions were not found");
    let folder = tempfile::tempdir().unwrap();
    let file = json!({"groups": [{"name": "dashboards", "rules": rules}]});
    // JSON is YAML.
    std::fs::write(folder.path().join("rules.yaml"), file.to_string()).unwrap();
    promtool::run(folder.path(), &["check", "rules", "rules.yaml"]);
}

#[test]
fn dashboards_use_only_exported_metrics_and_labels() {
    let exported = exported_series();
    let mut found = Vec::new();
    for dashboard in DASHBOARDS {
        for target in dashboard.targets() {
            found.extend(problems(&exported, &expanded(target.expr)));
        }
        for variable in dashboard.variables {
            let expression = format!("sum by ({}) ({})", variable.label, variable.series);
            found.extend(problems(&exported, &expression));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn expressions_and_legends_use_only_variables_and_labels_that_exist() {
    for dashboard in DASHBOARDS {
        let names: BTreeSet<&str> = dashboard.variables.iter().map(|variable| variable.name).collect();
        for target in dashboard.targets() {
            let expression = target.expr.replace(GRAPH_WINDOW, "");
            let used = expression
                .split("\"$")
                .skip(1)
                .filter_map(|rest| rest.split('"').next());
            for name in used {
                assert!(
                    names.contains(name),
                    "{} has no variable {name}: {expression}",
                    dashboard.title
                );
            }
            for label in target
                .legend
                .split("{{")
                .skip(1)
                .filter_map(|rest| rest.split("}}").next())
            {
                let grouping = expression
                    .split(" by (")
                    .nth(1)
                    .and_then(|rest| rest.split(')').next());
                let labels: Vec<&str> = grouping
                    .into_iter()
                    .flat_map(|labels| labels.split(", "))
                    .collect();
                // Without an aggregation, the series have all labels.
                let is_known = labels.contains(&label) || (grouping.is_none() && label == "pod");
                assert!(is_known, "{label} of the legend is not a label of {expression}");
            }
        }
    }
}

#[test]
fn panels_have_unique_ids_and_do_not_overlap() {
    for dashboard in DASHBOARDS {
        let rendered = dashboard.json();
        let panels = rendered["panels"].as_array().unwrap();
        let mut ids = BTreeSet::new();
        let mut cells = BTreeSet::new();
        for panel in panels {
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
            let position = |key: &str| panel["gridPos"][key].as_u64().unwrap();
            assert!(position("x") + position("w") <= 24, "{panel}");
            for x in position("x")..position("x") + position("w") {
                for y in position("y")..position("y") + position("h") {
                    assert!(cells.insert((x, y)), "overlap at {x}, {y}: {panel}");
                }
            }
        }
    }
}

#[test]
fn every_query_uses_the_selected_data_source() {
    for dashboard in DASHBOARDS {
        let rendered = dashboard.json();
        let variables = rendered["templating"]["list"].as_array().unwrap();
        assert_eq!(variables[0]["type"], "datasource");
        let reference =
            json!({"type": "prometheus", "uid": format!("${{{}}}", variables[0]["name"].as_str().unwrap())});
        let panels = rendered["panels"].as_array().unwrap();
        let targets = panels
            .iter()
            .flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
        for query in targets.chain(&variables[1..]) {
            assert_eq!(query["datasource"], reference, "{query}");
        }
    }
}
