//! Compares the expected result of a case with the actual result.

use serde_json::{Map, Value};

/// Removes, at any depth, object members whose value is null, an empty object or an empty list. Such elements of lists
/// stay, because the positions of elements are significant.
fn without_empty_members(value: &Value) -> Value {
    match value {
        Value::Object(members) => Value::Object(
            members
                .iter()
                .map(|(key, member)| (key.clone(), without_empty_members(member)))
                .filter(|(_, member)| !is_empty(member))
                .collect::<Map<_, _>>(),
        ),
        Value::Array(items) => Value::Array(items.iter().map(without_empty_members).collect()),
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

/// Returns one line for each path at which two values differ. An object member that is null, an empty object or an
/// empty list equals an absent member, and the number 1 equals 1.0.
pub fn differences(expected: &Value, actual: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    collect_differences(
        "",
        &without_empty_members(expected),
        &without_empty_members(actual),
        &mut lines,
    );
    lines
}

fn collect_differences(path: &str, expected: &Value, actual: &Value, lines: &mut Vec<String>) {
    match (expected, actual) {
        (Value::Object(expected), Value::Object(actual)) => {
            let keys = expected
                .keys()
                .chain(actual.keys().filter(|key| !expected.contains_key(*key)));
            for key in keys {
                let (expected, actual) = (expected.get(key), actual.get(key));
                collect_child_differences(&format!("{path}/{key}"), expected, actual, lines);
            }
        }
        (Value::Array(expected), Value::Array(actual)) => {
            for index in 0..expected.len().max(actual.len()) {
                collect_child_differences(
                    &format!("{path}/{index}"),
                    expected.get(index),
                    actual.get(index),
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

/// Compares two members of objects or two elements of lists. `None` stands for an absent member or element.
fn collect_child_differences(
    path: &str,
    expected: Option<&Value>,
    actual: Option<&Value>,
    lines: &mut Vec<String>,
) {
    match (expected, actual) {
        (Some(expected), Some(actual)) => collect_differences(path, expected, actual, lines),
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
    fn absent_null_and_empty_members_are_equal_and_numbers_are_compared_by_value() {
        assert!(
            differences(
                &json!({"a": null, "b": {}, "c": 1}),
                &json!({"c": 1.0, "d": [], "e": {"f": null}})
            )
            .is_empty()
        );
    }

    #[test]
    fn every_difference_is_reported_with_its_path() {
        let lines = differences(
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
