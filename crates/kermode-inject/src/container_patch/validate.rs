//! Validates a patched container: reports the fields that Kubernetes would reject or silently drop. The container is
//! decoded for inspection only; the Pod gets the raw JSON.

use k8s_openapi::api::core::v1::Container;
use serde::de::IntoDeserializer;
use serde_json::Value;

use super::{ContainerRole, checks};
use crate::quantity;

/// Returns the problems, each with its field.
pub(super) fn problems(container: &Value, role: ContainerRole) -> Vec<String> {
    if !container.is_object() {
        return vec!["the result is not a container".to_owned()];
    }
    let (normalized, mut problems) = with_text_quantities(container);
    if !problems.is_empty() {
        return problems;
    }
    let decoded: Result<Container, _> =
        serde_path_to_error::deserialize(normalized.clone().into_deserializer());
    let decoded = match decoded {
        Ok(decoded) => decoded,
        Err(error) => return vec![format!("{}: {}", error.path(), error.inner())],
    };
    if let Ok(encoded) = serde_json::to_value(&decoded) {
        report_unknown_fields("", &normalized, &encoded, &mut problems);
    }
    checks::check(&decoded, role, &mut problems);
    problems
}

/// Reports the fields of `given` that `encoded` lacks. `encoded` is `given` after decoding and encoding, so the missing
/// fields are unknown to Kubernetes.
fn report_unknown_fields(path: &str, given: &Value, encoded: &Value, problems: &mut Vec<String>) {
    match (given, encoded) {
        (Value::Object(given), Value::Object(encoded)) => {
            for (key, member) in given {
                let path = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                match encoded.get(key) {
                    Some(encoded) => report_unknown_fields(&path, member, encoded, problems),
                    None if member.is_null() => {}
                    None => problems.push(format!("{path}: unknown field, Kubernetes would drop it")),
                }
            }
        }
        (Value::Array(given), Value::Array(encoded)) => {
            for (index, (given, encoded)) in given.iter().zip(encoded).enumerate() {
                report_unknown_fields(&format!("{path}[{index}]"), given, encoded, problems);
            }
        }
        _ => {}
    }
}

/// Returns a copy with quantities as strings, and the problems of invalid quantities. A quantity may be a JSON number,
/// but `k8s_openapi` decodes strings only.
fn with_text_quantities(container: &Value) -> (Value, Vec<String>) {
    let (mut container, mut problems) = (container.clone(), Vec::new());
    for kind in ["requests", "limits"] {
        let quantities = container
            .pointer_mut(&format!("/resources/{kind}"))
            .and_then(Value::as_object_mut);
        for (name, quantity) in quantities.into_iter().flatten() {
            normalize_quantity(&format!("resources.{kind}.{name}"), quantity, &mut problems);
        }
    }
    let variables = container.get_mut("env").and_then(Value::as_array_mut);
    for (index, variable) in variables.into_iter().flatten().enumerate() {
        if let Some(divisor) = variable.pointer_mut("/valueFrom/resourceFieldRef/divisor") {
            let field = format!("env[{index}].valueFrom.resourceFieldRef.divisor");
            normalize_quantity(&field, divisor, &mut problems);
        }
    }
    (container, problems)
}

/// Converts a quantity that is a JSON number to a string, and reports an invalid quantity.
fn normalize_quantity(field: &str, quantity: &mut Value, problems: &mut Vec<String>) {
    if let Value::Number(number) = quantity {
        *quantity = Value::String(number.to_string());
    }
    // A value that is neither a number nor a string is reported when the container is decoded.
    if let Some(Err(error)) = quantity.as_str().map(quantity::parse) {
        problems.push(format!("{field}: {error}"));
    }
}
