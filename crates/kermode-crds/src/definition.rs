//! The CustomResourceDefinitions, as JSON ready to be applied.

use serde_json::{Value, json};

use crate::{GROUP, VERSION};

/// All CustomResourceDefinitions, in the order they are installed.
pub fn all() -> Vec<Value> {
    vec![container_patch(), dataplane(), mesh(), mesh_traffic_permission()]
}

/// Name of the CustomResourceDefinition of a plural.
pub fn name(plural: &str) -> String {
    format!("{plural}.{GROUP}")
}

fn definition(kind: &str, plural: &str, singular: &str, scope: &str, version: Value) -> Value {
    let mut version = version;
    version["name"] = VERSION.into();
    version["served"] = true.into();
    version["storage"] = true.into();
    json!({
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
    })
}

fn object(properties: Value) -> Value {
    json!({"type": "object", "properties": properties})
}

fn root(mut properties: Value) -> Value {
    properties["apiVersion"] = json!({"type": "string"});
    properties["kind"] = json!({"type": "string"});
    properties["metadata"] = json!({"type": "object"});
    object(properties)
}

fn container_patch() -> Value {
    let block = json!({
        "type": "object",
        "description": "One JSON patch operation (RFC 6902); add creates missing parents.",
        "properties": {
            "op": {"type": "string", "enum": ["add", "remove", "replace", "move", "copy"]},
            "path": {"type": "string", "description": "JSON pointer to what changes."},
            "from": {"type": "string", "description": "JSON pointer to the source of move and copy."},
            "value": {"type": "string", "description": "Text that is itself a JSON document."},
        },
        "required": ["op", "path"],
    });
    let list = |description: &str| json!({"type": "array", "description": description, "items": block});
    let spec = object(json!({
        "sidecarPatch": list("Operations on kuma-sidecar, in order."),
        "initPatch": list("Operations on kuma-init, in order."),
    }));
    let schema = root(json!({"mesh": {"type": "string"}, "spec": spec}));
    let version = json!({"schema": {"openAPIV3Schema": schema}});
    definition(
        "ContainerPatch",
        "containerpatches",
        "containerpatch",
        "Namespaced",
        version,
    )
}

fn dataplane() -> Value {
    let free_form = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let schema = root(json!({
        "mesh": {"type": "string", "description": "The mesh the proxy belongs to."},
        "spec": free_form,
    }));
    let columns = json!([
        {"name": "Mesh", "type": "string", "jsonPath": ".mesh"},
        {"name": "Services", "type": "string",
         "jsonPath": ".spec.networking.inbound[*].tags['kuma\\.io/service']"},
        {"name": "Ready", "type": "string", "jsonPath": ".spec.networking.inbound[*].health.ready"},
        {"name": "Address", "type": "string", "jsonPath": ".spec.networking.address"},
        {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
    ]);
    let version = json!({"schema": {"openAPIV3Schema": schema}, "additionalPrinterColumns": columns});
    definition("Dataplane", "dataplanes", "dataplane", "Namespaced", version)
}

fn mesh() -> Value {
    let schema = root(json!({"spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}));
    let columns = json!([
        {"name": "mTLS", "type": "string", "jsonPath": ".spec.mtls.enabledBackend"},
        {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
    ]);
    let version = json!({"schema": {"openAPIV3Schema": schema}, "additionalPrinterColumns": columns});
    definition("Mesh", "meshes", "mesh", "Cluster", version)
}

fn mesh_traffic_permission() -> Value {
    let target = |kinds: Value| {
        json!({
            "type": "object",
            "properties": {
                "kind": {"type": "string", "enum": kinds},
                "name": {"type": "string"},
                "mesh": {"type": "string"},
                "tags": {"type": "object", "additionalProperties": {"type": "string"}},
            },
        })
    };
    let kinds = json!([
        "Mesh",
        "MeshSubset",
        "MeshService",
        "MeshServiceSubset",
        "MeshGatewayRoute"
    ]);
    let from = json!({
        "type": "array",
        "items": {
            "type": "object",
            "properties": {
                "targetRef": target(kinds.clone()),
                "default": object(json!({
                    "action": {"type": "string", "enum": ["Allow", "Deny", "AllowWithShadowDeny"]},
                })),
            },
            "required": ["targetRef"],
        },
    });
    let schema = root(json!({"spec": object(json!({"targetRef": target(kinds), "from": from}))}));
    let version = json!({"schema": {"openAPIV3Schema": schema}});
    definition(
        "MeshTrafficPermission",
        "meshtrafficpermissions",
        "meshtrafficpermission",
        "Namespaced",
        version,
    )
}
