//! Validates a value against a structural schema, with the keywords that Kermode's CustomResourceDefinitions use.

use serde_json::Value;

/// Whether a value fits a schema. Unknown members fit: the API server prunes them.
pub(super) fn accepts(schema: &Value, value: &Value) -> bool {
    fits_type(schema, value)
        && fits_keywords(schema, value)
        && fits_members(schema, value)
        && fits_items(schema, value)
}

fn fits_type(schema: &Value, value: &Value) -> bool {
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

fn fits_keywords(schema: &Value, value: &Value) -> bool {
    schema["enum"]
        .as_array()
        .is_none_or(|words| words.contains(value))
}

fn fits_members(schema: &Value, value: &Value) -> bool {
    let Some(members) = value.as_object() else {
        return true;
    };
    let required = schema["required"].as_array().into_iter().flatten();
    let complete = required
        .into_iter()
        .filter_map(Value::as_str)
        .all(|name| members.contains_key(name));
    complete
        && members
            .iter()
            .all(|(name, member)| match schema["properties"].get(name) {
                Some(schema) => accepts(schema, member),
                None => schema
                    .get("additionalProperties")
                    .is_none_or(|schema| accepts(schema, member)),
            })
}

fn fits_items(schema: &Value, value: &Value) -> bool {
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
    fn each_keyword_rejects_a_bad_value() {
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
