//! The CustomResourceDefinitions, as JSON ready to be applied.
//!
//! Structural: what we know is described and checked, so that `kubectl explain` tells something and a typing error is
//! refused by the API server itself. Kuma has fields that we do not know; wherever its manifests may carry one, it is
//! kept ([`open`]) rather than pruned.

mod container_patch;
mod dataplane;
mod mesh;
mod traffic_permission;

use serde_json::{Value, json};

use crate::{GROUP, VERSION};

/// All CustomResourceDefinitions, in the order they are installed.
pub fn all() -> Vec<Value> {
    vec![
        container_patch::container_patch(),
        dataplane::dataplane(),
        mesh::mesh(),
        traffic_permission::mesh_traffic_permission(),
    ]
}

/// Name of the CustomResourceDefinition of a plural.
pub fn name(plural: &str) -> String {
    format!("{plural}.{GROUP}")
}

/// What a kind is called.
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
    // An empty list would not be stored, and every `kubectl apply` would find a difference.
    if properties.as_object().is_some_and(|members| !members.is_empty()) {
        schema["properties"] = properties;
    }
    schema
}

/// An object that may have members besides those described.
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

/// A rule in CEL. Its message is what the user reads.
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

/// A port number from `least`, which is 0 where that means none.
fn port(least: u16, description: &str) -> Value {
    json!({"type": "integer", "minimum": least, "maximum": u16::MAX, "description": description})
}

fn column(name: &str, kind: &str, path: &str) -> Value {
    json!({"name": name, "type": kind, "jsonPath": path})
}

/// A column that only `kubectl get -o wide` shows.
fn wide(mut column: Value) -> Value {
    column["priority"] = 1.into();
    column
}

/// Conditions as all of Kubernetes has them; each writer owns those of its own types.
fn conditions() -> Value {
    let condition = object(json!({
        "type": text("What it is about."),
        "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
        "reason": text("Why, in one word for programs."),
        "message": text("Why, in a sentence for people."),
        "lastTransitionTime": {"type": "string", "format": "date-time"},
        "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0},
    }));
    json!({
        "type": "array",
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
