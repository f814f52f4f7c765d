//! CustomResourceDefinitions, as JSON.
//!
//! The schemas are structural. They describe each field that Kermode uses, for `kubectl explain`, and restrict its
//! values, so that the API server rejects a misspelled value. With a schema from [`open_object`], the API server keeps
//! unknown fields, because Kuma has fields that Kermode does not use.

mod container_patch;
mod dataplane;
mod mesh;
mod traffic_permission;

use serde_json::{Value, json};

use crate::{GROUP, VERSION};

/// Returns all CustomResourceDefinitions, in the order in which they are installed.
pub fn all() -> Vec<Value> {
    vec![
        container_patch::container_patch(),
        dataplane::dataplane(),
        mesh::mesh(),
        traffic_permission::mesh_traffic_permission(),
    ]
}

/// Returns the name of a CustomResourceDefinition. `plural` is the plural name of the defined resource.
pub fn name(plural: &str) -> String {
    format!("{plural}.{GROUP}")
}

/// Names of a custom resource, as `kubectl` accepts them.
struct Names {
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
    short: &'static [&'static str],
}

/// Builds a CustomResourceDefinition with one version. `version` contains the schema, subresources and columns.
fn definition(names: Names, scope: &str, mut version: Value) -> Value {
    version["name"] = VERSION.into();
    version["served"] = true.into();
    version["storage"] = true.into();
    let Names {
        kind,
        plural,
        singular,
        short,
    } = names;
    let mut definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": name(plural)},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": kind,
                "listKind": format!("{kind}List"),
                "plural": plural,
                "singular": singular,
                "categories": ["kuma"],
            },
            "scope": scope,
            "versions": [version],
        },
    });
    if !short.is_empty() {
        definition["spec"]["names"]["shortNames"] = json!(short);
    }
    definition
}

/// Schema of an object; the API server drops unknown fields.
fn object(properties: Value) -> Value {
    let mut schema = json!({"type": "object"});
    // The API server does not store empty `properties`, so `kubectl diff` would always report them as a difference.
    if properties.as_object().is_some_and(|fields| !fields.is_empty()) {
        schema["properties"] = properties;
    }
    schema
}

/// Schema of an object; the API server keeps unknown fields.
fn open_object(properties: Value) -> Value {
    let mut schema = object(properties);
    schema["x-kubernetes-preserve-unknown-fields"] = true.into();
    schema
}

/// Adds a description, which `kubectl explain` shows.
fn with_description(mut schema: Value, description: &str) -> Value {
    schema["description"] = description.into();
    schema
}

/// Makes fields of an object required.
fn with_required(mut schema: Value, fields: &[&str]) -> Value {
    schema["required"] = json!(fields);
    schema
}

/// Adds a CEL rule. The API server shows the message if an object violates the rule.
fn with_rule(mut schema: Value, rule: &str, message: &str) -> Value {
    let rules = &mut schema["x-kubernetes-validations"];
    if rules.is_null() {
        *rules = json!([]);
    }
    if let Some(rules) = rules.as_array_mut() {
        rules.push(json!({"rule": rule, "message": message}));
    }
    schema
}

/// Schema of a string.
fn text(description: &str) -> Value {
    json!({"type": "string", "description": description})
}

/// Schema of a port number. `minimum` is 0 for a field in which 0 means no port.
fn port(minimum: u16, description: &str) -> Value {
    json!({"type": "integer", "minimum": minimum, "maximum": u16::MAX, "description": description})
}

/// Printer column of `kubectl get`.
fn column(name: &str, value_type: &str, path: &str) -> Value {
    json!({"name": name, "type": value_type, "jsonPath": path})
}

/// Restricts a column to `kubectl get -o wide`.
fn wide_column(mut column: Value) -> Value {
    column["priority"] = 1.into();
    column
}

/// Schema of the conditions of a status. The list is keyed by type, so each field manager owns only the conditions that
/// it writes.
fn conditions() -> Value {
    let condition = object(json!({
        "type": text("Type of the condition."),
        "status": {"type": "string", "enum": ["True", "False", "Unknown"], "description": "Status of the condition."},
        "reason": text("Machine-readable reason."),
        "message": text("Human-readable message."),
        "lastTransitionTime": {"type": "string", "format": "date-time", "description": "Time of the last change of the status."},
        "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0, "description": "Generation of the object that the condition refers to."},
    }));
    json!({
        "type": "array",
        "description": "Conditions, one for each type.",
        "items": with_required(condition, &["type", "status", "reason", "message", "lastTransitionTime"]),
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
    })
}

/// Schema of a custom resource with these top-level fields. Adds the fields that every object has.
fn root_schema(mut properties: Value) -> Value {
    properties["apiVersion"] = json!({"type": "string"});
    properties["kind"] = json!({"type": "string"});
    properties["metadata"] = json!({"type": "object"});
    object(properties)
}

#[cfg(test)]
mod tests;
