//! Tables of objects as text.

use kermode_explain::aligned;
use serde_json::Value;

use crate::cluster::ServerTable;

/// Columns that belong to the wide format of `kubectl get`, and that every table of this command has: whether the sidecar
/// is connected, and whether it has accepted its configuration.
const ALWAYS_SHOWN: [&str; 2] = ["Connected", "Accepted"];
/// Text of an empty cell.
const EMPTY: &str = "-";
/// Text of a table without rows.
const NOTHING: &str = "No objects.\n";

/// Formats a table, with the namespaces of the objects if `has_namespaces`, and with all columns if `is_wide`.
pub(super) fn text(table: &ServerTable, has_namespaces: bool, is_wide: bool) -> String {
    if table.rows.is_empty() {
        return NOTHING.to_owned();
    }
    let shown: Vec<usize> = (0..table.columns.len())
        .filter(|index| is_wide || is_shown(&table.columns[*index]))
        .collect();
    let name = |index: &usize| {
        table.columns[*index]["name"]
            .as_str()
            .unwrap_or_default()
            .to_uppercase()
    };
    let mut lines = vec![with_namespace(
        has_namespaces,
        "NAMESPACE",
        shown.iter().map(name),
    )];
    for row in &table.rows {
        let namespace = row["object"]["metadata"]["namespace"].as_str().unwrap_or(EMPTY);
        let cells = shown.iter().map(|index| cell(&row["cells"][*index]));
        lines.push(with_namespace(has_namespaces, namespace, cells));
    }
    aligned(&lines)
}

fn is_shown(column: &Value) -> bool {
    column["priority"].as_u64().unwrap_or_default() == 0
        || column["name"]
            .as_str()
            .is_some_and(|name| ALWAYS_SHOWN.contains(&name))
}

fn with_namespace(has_namespaces: bool, namespace: &str, cells: impl Iterator<Item = String>) -> Vec<String> {
    has_namespaces
        .then(|| namespace.to_owned())
        .into_iter()
        .chain(cells)
        .collect()
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => EMPTY.to_owned(),
        Value::String(text) if text.is_empty() => EMPTY.to_owned(),
        Value::String(text) => text.replace(char::is_control, " "),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn table() -> ServerTable {
        let column = |name: &str, priority: u64| json!({"name": name, "priority": priority});
        ServerTable {
            columns: vec![
                column("Name", 0),
                column("Ready", 0),
                column("Accepted", 1),
                column("Envoy", 1),
            ],
            rows: vec![
                json!({"cells": ["web-0", "1/1", "True", "1.40"], "object": {"metadata": {"namespace": "shop"}}}),
                json!({"cells": ["a", 2, null, ""], "object": {"metadata": {"namespace": "b"}}}),
            ],
        }
    }

    #[test]
    fn table_shows_the_state_of_the_configuration_and_the_wide_table_everything() {
        let expected = "\
NAMESPACE   NAME    READY   ACCEPTED
shop        web-0   1/1     True
b           a       2       -
";
        assert_eq!(text(&table(), true, false), expected);
        let expected = "\
NAME    READY   ACCEPTED   ENVOY
web-0   1/1     True       1.40
a       2       -          -
";
        assert_eq!(text(&table(), false, true), expected);
        assert_eq!(text(&ServerTable::default(), true, true), NOTHING);
    }
}
