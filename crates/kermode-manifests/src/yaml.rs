//! Writer of objects as YAML text.

use serde_json::Value;

use crate::ManifestError;

/// Writes the objects as a stream of YAML documents. Keys are sorted, so equal objects yield equal text, independent of
/// the features of `serde_json`.
///
/// # Errors
/// If an object cannot be written as YAML.
pub fn documents(objects: &[Value]) -> Result<String, ManifestError> {
    let mut text = String::new();
    for object in objects {
        text.push_str("---\n");
        text.push_str(&document(object)?);
    }
    Ok(text)
}

/// Writes one object as a YAML document that ends with a line break.
///
/// # Errors
/// If the object cannot be written as YAML.
pub fn document(object: &Value) -> Result<String, ManifestError> {
    let text = serde_saphyr::to_string(&sorted(object))?;
    Ok(format!("{}\n", text.trim_end()))
}

/// Returns the value with sorted keys, independent of the features of `serde_json`.
pub fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(key, _)| key.as_str());
            Value::Object(
                entries
                    .into_iter()
                    .map(|(key, value)| (key.clone(), sorted(value)))
                    .collect(),
            )
        }
        Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
        scalar => scalar.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_are_sorted_at_every_depth() {
        let text = document(&json!({"b": [{"d": 1, "c": 2}], "a": {}})).expect("YAML");
        assert_eq!(text, "a: {}\nb:\n- c: 2\n  d: 1\n");
    }

    #[test]
    fn text_that_reads_as_another_type_is_quoted() {
        // kubectl reads YAML 1.1, where more words than true and false are booleans.
        for word in [
            "true", "yes", "on", "n", "null", "~", "12", "0x1f", "1e3", "0o7", "", "- a", "a: b", "#",
        ] {
            let text = document(&json!({ "a": word })).expect("YAML");
            let written = text.trim_end().trim_start_matches("a:").trim_start();
            assert!(
                written.starts_with(['"', '\'']),
                "{word:?} is written as {written}"
            );
            let read: Value = serde_saphyr::from_str(&text).expect("YAML");
            assert_eq!(read, json!({ "a": word }));
        }
    }

    #[test]
    fn multi_line_text_survives() {
        let object = json!({"config.yaml": "a:\n  b: \"c\"\n"});
        let read: Value = serde_saphyr::from_str(&document(&object).expect("YAML")).expect("YAML");
        assert_eq!(read, object);
    }

    #[test]
    fn documents_are_separated() {
        let text = documents(&[json!({"a": 1}), json!({"b": 2})]).expect("YAML");
        assert_eq!(text, "---\na: 1\n---\nb: 2\n");
    }
}
