//! CustomResourceDefinitions, as JSON.
//!
//! The schemas are structural: every known field is described and checked, so that `kubectl explain` documents it and the
//! API server refuses a misspelled value. Schemas made with [`open`] keep unknown fields, because Kuma has further fields.

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

/// Returns the name of the CustomResourceDefinition of a resource, given in the plural.
pub fn name(plural: &str) -> String {
    format!("{plural}.{GROUP}")
}

/// Names of a kind.
struct Names {
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
    short: &'static [&'static str],
}

fn definition(names: Names, scope: &str, version: Value) -> Value {
    let mut version = version;
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

fn object(properties: Value) -> Value {
    let mut schema = json!({"type": "object"});
    // The API server does not store an empty map, so `kubectl diff` would always report one.
    if properties.as_object().is_some_and(|members| !members.is_empty()) {
        schema["properties"] = properties;
    }
    schema
}

/// Schema of an object that keeps unknown fields.
fn open(properties: Value) -> Value {
    let mut schema = object(properties);
    schema["x-kubernetes-preserve-unknown-fields"] = true.into();
    schema
}

fn described(mut schema: Value, description: &str) -> Value {
    schema["description"] = description.into();
    schema
}

fn required(mut schema: Value, members: &[&str]) -> Value {
    schema["required"] = json!(members);
    schema
}

/// Adds a CEL rule. The user sees its message.
fn rule(mut schema: Value, rule: &str, message: &str) -> Value {
    let rules = &mut schema["x-kubernetes-validations"];
    if rules.is_null() {
        *rules = json!([]);
    }
    if let Some(rules) = rules.as_array_mut() {
        rules.push(json!({"rule": rule, "message": message}));
    }
    schema
}

fn text(description: &str) -> Value {
    json!({"type": "string", "description": description})
}

/// Schema of a port number, from `least`; 0 means no port.
fn port(least: u16, description: &str) -> Value {
    json!({"type": "integer", "minimum": least, "maximum": u16::MAX, "description": description})
}

fn column(name: &str, kind: &str, path: &str) -> Value {
    json!({"name": name, "type": kind, "jsonPath": path})
}

/// A column of `kubectl get -o wide` only.
fn wide(mut column: Value) -> Value {
    column["priority"] = 1.into();
    column
}

/// Conditions in the form of Kubernetes. Each field manager owns the condition types that it writes.
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
        "items": required(condition, &["type", "status", "reason", "message", "lastTransitionTime"]),
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
    })
}

fn root(mut properties: Value) -> Value {
    properties["apiVersion"] = json!({"type": "string"});
    properties["kind"] = json!({"type": "string"});
    properties["metadata"] = json!({"type": "object"});
    object(properties)
}

#[cfg(test)]
mod tests;
