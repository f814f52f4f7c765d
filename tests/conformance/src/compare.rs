//! Compares the expectation of a case with the result of the product, the last step before the report.

use serde_json::{Map, Value};

/// Removes members of objects that count as absent, at any depth: null, empty objects and empty lists.
///
/// Elements of lists stay, because their positions are significant.
pub fn normalised(value: &Value) -> Value {
    match value {
        Value::Object(members) => Value::Object(
            members
                .iter()
                .map(|(key, member)| (key.clone(), normalised(member)))
                .filter(|(_, member)| !is_empty(member))
                .collect::<Map<_, _>>(),
        ),
        Value::Array(items) => Value::Array(items.iter().map(normalised).collect()),
        other => other.clone(),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(members) => members.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

/// Returns one line for each path at which two values differ; empty when they are equal after [`normalised`].
pub fn difference(expected: &Value, actual: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    walk("", &normalised(expected), &normalised(actual), &mut lines);
    lines
}

fn walk(path: &str, expected: &Value, actual: &Value, lines: &mut Vec<String>) {
    match (expected, actual) {
        (Value::Object(left), Value::Object(right)) => {
            let keys = left
                .keys()
                .chain(right.keys().filter(|key| !left.contains_key(*key)));
            for key in keys {
                let (left, right) = (left.get(key), right.get(key));
                walk_optional(&format!("{path}/{key}"), left, right, lines);
            }
        }
        (Value::Array(left), Value::Array(right)) => {
            for index in 0..left.len().max(right.len()) {
                walk_optional(
                    &format!("{path}/{index}"),
                    left.get(index),
                    right.get(index),
                    lines,
                );
            }
        }
        (expected, actual) if equal_scalars(expected, actual) => {}
        (expected, actual) => lines.push(format!(
            "{}: expected {expected}, got {actual}",
            path_or_whole(path)
        )),
    }
}

fn walk_optional(path: &str, expected: Option<&Value>, actual: Option<&Value>, lines: &mut Vec<String>) {
    match (expected, actual) {
        (Some(expected), Some(actual)) => walk(path, expected, actual, lines),
        (Some(expected), None) => lines.push(format!("{path}: missing, expected {expected}")),
        (None, Some(actual)) => lines.push(format!("{path}: unexpected {actual}")),
        (None, None) => {}
    }
}

fn equal_scalars(left: &Value, right: &Value) -> bool {
    match (left.as_f64(), right.as_f64()) {
        (Some(left), Some(right)) => left.to_bits() == right.to_bits(),
        _ => left == right,
    }
}

fn path_or_whole(path: &str) -> &str {
    if path.is_empty() { "whole document" } else { path }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn absent_null_and_empty_are_equal() {
        assert!(
            difference(
                &json!({"a": null, "b": {}, "c": 1}),
                &json!({"c": 1.0, "d": [], "e": {"f": null}})
            )
            .is_empty()
        );
    }

    #[test]
    fn every_difference_is_named_by_its_path() {
        let lines = difference(
            &json!({"a": [1, 2], "b": "x"}),
            &json!({"a": [1, 3, 4], "c": true}),
        );
        assert_eq!(
            lines,
            [
                "/a/1: expected 2, got 3",
                "/a/2: unexpected 4",
                "/b: missing, expected \"x\"",
                "/c: unexpected true",
            ]
        );
    }
}
