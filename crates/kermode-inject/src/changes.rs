//! Describes the differences between two JSON values for the injection trace, and for the comparison of an injected Pod
//! with what would be injected today.

use serde_json::Value;

use crate::pointer;

/// Maximum length of a displayed value, in characters; a longer value is truncated.
const MAX_VALUE_CHARS: usize = 160;

/// Returns one line for each difference, with the JSON pointer of the changed part.
pub fn between(before: &Value, after: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    compare("", before, after, &mut lines);
    lines
}

/// Appends a line for each difference between two values. Objects and lists are compared member by member.
fn compare(path: &str, before: &Value, after: &Value, lines: &mut Vec<String>) {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            let added = after.keys().filter(|key| !before.contains_key(*key));
            for key in before.keys().chain(added) {
                let path = format!("{path}/{}", pointer::escape(key));
                compare_optional(&path, before.get(key), after.get(key), lines);
            }
        }
        (Value::Array(before), Value::Array(after)) => compare_lists(path, before, after, lines),
        (before, after) => compare_optional(path, Some(before), Some(after), lines),
    }
}

/// Compares two values, each of which may be absent.
fn compare_optional(path: &str, before: Option<&Value>, after: Option<&Value>, lines: &mut Vec<String>) {
    match (before, after) {
        (Some(before), Some(after)) if before == after => {}
        (Some(before), Some(after)) if both_objects_or_lists(before, after) => {
            compare(path, before, after, lines);
        }
        (Some(before), Some(after)) => {
            lines.push(format!(
                "{path} was {}, is {}",
                truncated(before),
                truncated(after)
            ));
        }
        (Some(before), None) => lines.push(format!("{path} was {}, is removed", truncated(before))),
        (None, Some(after)) => lines.push(format!("{path} is new: {}", truncated(after))),
        (None, None) => {}
    }
}

fn both_objects_or_lists(before: &Value, after: &Value) -> bool {
    (before.is_object() && after.is_object()) || (before.is_array() && after.is_array())
}

/// Compares lists without their common prefix and suffix, so that an insertion is reported as one line.
fn compare_lists(path: &str, before: &[Value], after: &[Value], lines: &mut Vec<String>) {
    let equal = |(left, right): &(&Value, &Value)| left == right;
    let prefix_len = before.iter().zip(after).take_while(equal).count();
    let (before, after) = (&before[prefix_len..], &after[prefix_len..]);
    let suffix_len = before
        .iter()
        .rev()
        .zip(after.iter().rev())
        .take_while(equal)
        .count();
    let (before, after) = (
        &before[..before.len() - suffix_len],
        &after[..after.len() - suffix_len],
    );
    for index in 0..before.len().max(after.len()) {
        compare_optional(
            &format!("{path}/{}", prefix_len + index),
            before.get(index),
            after.get(index),
            lines,
        );
    }
}

fn truncated(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= MAX_VALUE_CHARS {
        return text;
    }
    let start: String = text.chars().take(MAX_VALUE_CHARS).collect();
    format!("{start}...")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_change_is_one_line_with_its_pointer() {
        let before = json!({"a": [1, 2, 3], "b": {"c/d": 1}, "e": true, "f": [1]});
        let after = json!({"a": [1, 9, 2, 3], "b": {"c/d": 2}, "f": 1, "g": {}});
        assert_eq!(
            between(&before, &after),
            [
                "/a/1 is new: 9",
                "/b/c~1d was 1, is 2",
                "/e was true, is removed",
                "/f was [1], is 1",
                "/g is new: {}",
            ]
        );
        assert!(between(&after, &after).is_empty());
        assert_eq!(between(&json!([1, 1]), &json!([1])), ["/1 was 1, is removed"]);
    }
}
