//! Validates a value against a structural schema as the API server does. Supports only the keywords that the
//! conformance cases need.

use serde_json::Value;

/// Returns whether a value is valid according to a schema. Unknown members are valid, because the API server prunes
/// them.
pub(super) fn accepts(schema: &Value, value: &Value) -> bool {
    has_valid_type(schema, value)
        && has_allowed_value(schema, value)
        && has_valid_members(schema, value)
        && has_valid_items(schema, value)
}

fn has_valid_type(schema: &Value, value: &Value) -> bool {
    match schema["type"].as_str() {
        None => true,
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("number") => value.is_number(),
        Some(_) => false,
    }
}

fn has_allowed_value(schema: &Value, value: &Value) -> bool {
    schema["enum"]
        .as_array()
        .is_none_or(|allowed_values| allowed_values.contains(value))
}

fn has_valid_members(schema: &Value, value: &Value) -> bool {
    let Some(members) = value.as_object() else {
        return true;
    };
    let required = schema["required"].as_array().into_iter().flatten();
    let has_required_members = required
        .into_iter()
        .filter_map(Value::as_str)
        .all(|name| members.contains_key(name));
    has_required_members
        && members
            .iter()
            .all(|(name, member)| match schema["properties"].get(name) {
                Some(schema) => accepts(schema, member),
                None => schema
                    .get("additionalProperties")
                    .is_none_or(|schema| accepts(schema, member)),
            })
}

fn has_valid_items(schema: &Value, value: &Value) -> bool {
    let items = value.as_array().into_iter().flatten();
    schema
        .get("items")
        .is_none_or(|schema| items.into_iter().all(|item| accepts(schema, item)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn value_that_violates_one_keyword_is_invalid() {
        let schema = json!({
            "type": "object",
            "required": ["a"],
            "properties": {"a": {"type": "array", "items": {"type": "string", "enum": ["x"]}}},
        });
        assert!(accepts(&schema, &json!({"a": ["x"], "unknown": 1})));
        for bad in [
            json!(1),
            json!({}),
            json!({"a": "x"}),
            json!({"a": [1]}),
            json!({"a": ["y"]}),
        ] {
            assert!(!accepts(&schema, &bad), "{bad}");
        }
    }
}
