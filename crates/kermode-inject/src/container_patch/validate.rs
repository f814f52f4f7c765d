//! Validation of a patched container: finds what Kubernetes would reject or silently drop. The container is decoded for
//! inspection only; the raw JSON is used.

use k8s_openapi::api::core::v1::Container;
use serde::de::IntoDeserializer;
use serde_json::Value;

use super::{ContainerRole, checks};
use crate::quantity;

/// Returns all problems, each with its field.
pub(super) fn problems(container: &Value, role: ContainerRole) -> Vec<String> {
    if !container.is_object() {
        return vec!["the result is not a container".to_owned()];
    }
    let (comparable, mut problems) = with_text_quantities(container);
    if !problems.is_empty() {
        return problems;
    }
    let decoded: Result<Container, _> =
        serde_path_to_error::deserialize(comparable.clone().into_deserializer());
    let decoded = match decoded {
        Ok(decoded) => decoded,
        Err(error) => return vec![format!("{}: {}", error.path(), error.inner())],
    };
    if let Ok(known) = serde_json::to_value(&decoded) {
        unknown_fields("", &comparable, &known, &mut problems);
    }
    checks::check(&decoded, role, &mut problems);
    problems
}

/// Reports members of `given` that decoding lost: Kubernetes does not know them.
fn unknown_fields(path: &str, given: &Value, known: &Value, problems: &mut Vec<String>) {
    match (given, known) {
        (Value::Object(given), Value::Object(known)) => {
            for (key, member) in given {
                let path = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                match known.get(key) {
                    Some(known) => unknown_fields(&path, member, known, problems),
                    None if member.is_null() => {}
                    None => problems.push(format!("{path}: unknown field, Kubernetes would drop it")),
                }
            }
        }
        (Value::Array(given), Value::Array(known)) => {
            for (index, (given, known)) in given.iter().zip(known).enumerate() {
                unknown_fields(&format!("{path}[{index}]"), given, known, problems);
            }
        }
        _ => {}
    }
}

/// Returns a copy with quantities as strings, and the problems of invalid quantities. A quantity may be a JSON number, but
/// the bindings accept strings only.
fn with_text_quantities(container: &Value) -> (Value, Vec<String>) {
    let (mut container, mut problems) = (container.clone(), Vec::new());
    for kind in ["requests", "limits"] {
        let amounts = container
            .pointer_mut(&format!("/resources/{kind}"))
            .and_then(Value::as_object_mut);
        for (name, amount) in amounts.into_iter().flatten() {
            check_quantity(&format!("resources.{kind}.{name}"), amount, &mut problems);
        }
    }
    let variables = container.get_mut("env").and_then(Value::as_array_mut);
    for (index, variable) in variables.into_iter().flatten().enumerate() {
        if let Some(divisor) = variable.pointer_mut("/valueFrom/resourceFieldRef/divisor") {
            let field = format!("env[{index}].valueFrom.resourceFieldRef.divisor");
            check_quantity(&field, divisor, &mut problems);
        }
    }
    (container, problems)
}

fn check_quantity(field: &str, amount: &mut Value, problems: &mut Vec<String>) {
    if let Value::Number(number) = amount {
        *amount = Value::String(number.to_string());
    }
    // Decoding reports other types.
    if let Some(Err(error)) = amount.as_str().map(quantity::parse) {
        problems.push(format!("{field}: {error}"));
    }
}
