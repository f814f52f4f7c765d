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
    let (expected, actual) = (without_empty_members(expected), without_empty_members(actual));
    collect_differences("", &expected, &actual, Additions::Reported, &mut lines);
    lines
}

/// Compares two sets of protobuf messages. `expected` and `actual` are objects; the keys identify the messages, and the
/// values are the messages as protobuf JSON. Returns one line for each path at which they differ.
///
/// Both sides must have the same keys. Within a message, members that only `actual` has are ignored: the product may set
/// more fields than the reference. Lists must have the same length. An empty message differs from an absent message,
/// because Envoy distinguishes the two.
pub fn message_differences(expected: &Value, actual: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    let no_messages = Map::new();
    let messages_of = |value| Value::as_object(value).unwrap_or(&no_messages);
    let (expected, actual) = (messages_of(expected), messages_of(actual));
    for key in all_keys(expected, actual, Additions::Reported) {
        let (path, expected, actual) = (format!("/{key}"), expected.get(key), actual.get(key));
        collect_child_differences(&path, expected, actual, Additions::Ignored, &mut lines);
    }
    lines
}

/// Whether object members that only the actual result has are differences.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Additions {
    Reported,
    Ignored,
}

/// Returns the keys of `expected`. If additions are reported, the keys that only `actual` has follow.
fn all_keys<'a>(
    expected: &'a Map<String, Value>,
    actual: &'a Map<String, Value>,
    additions: Additions,
) -> impl Iterator<Item = &'a String> {
    let added = actual.keys().filter(|key| !expected.contains_key(*key));
    expected
        .keys()
        .chain(added.filter(move |_| additions == Additions::Reported))
}

fn collect_differences(
    path: &str,
    expected: &Value,
    actual: &Value,
    additions: Additions,
    lines: &mut Vec<String>,
) {
    match (expected, actual) {
        (Value::Object(expected), Value::Object(actual)) => {
            for key in all_keys(expected, actual, additions) {
                let (path, expected, actual) = (format!("{path}/{key}"), expected.get(key), actual.get(key));
                collect_child_differences(&path, expected, actual, additions, lines);
            }
        }
        (Value::Array(expected), Value::Array(actual)) => {
            for index in 0..expected.len().max(actual.len()) {
                let path = format!("{path}/{index}");
                let (expected, actual) = (expected.get(index), actual.get(index));
                collect_child_differences(&path, expected, actual, additions, lines);
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
    additions: Additions,
    lines: &mut Vec<String>,
) {
    match (expected, actual) {
        (Some(expected), Some(actual)) => collect_differences(path, expected, actual, additions, lines),
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

    #[test]
    fn messages_may_have_more_members_than_expected_but_lists_must_have_the_same_length() {
        let expected = json!({"a": {"list": [{"x": 1}], "present": {}}});
        let with = |list: Value| json!({"a": {"list": list, "present": {"y": 2}, "more": 3}});
        let none: [&str; 0] = [];
        assert_eq!(
            message_differences(&expected, &with(json!([{"x": 1, "z": 2}]))),
            none
        );
        assert_eq!(
            message_differences(&expected, &with(json!([{"x": 2}, {}]))),
            ["/a/list/0/x: expected 1, got 2", "/a/list/1: unexpected {}"]
        );
    }

    #[test]
    fn unexpected_message_and_absent_empty_message_are_differences() {
        assert_eq!(
            message_differences(&json!({"a": {"rules": {}}}), &json!({"a": {}, "b": {}})),
            ["/a/rules: missing, expected {}", "/b: unexpected {}"]
        );
    }
}
