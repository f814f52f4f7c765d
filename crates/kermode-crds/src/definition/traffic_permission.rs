//! CustomResourceDefinition of MeshTrafficPermission.

use serde_json::{Value, json};

use super::{Names, definition, object, required, root};

pub(super) fn mesh_traffic_permission() -> Value {
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
    let spec = object(json!({"targetRef": target(kinds), "from": from}));
    let schema = root(json!({"spec": required(spec, &["targetRef"])}));
    let version = json!({"schema": {"openAPIV3Schema": schema}});
    let names = Names {
        kind: "MeshTrafficPermission",
        plural: "meshtrafficpermissions",
        singular: "meshtrafficpermission",
        short: &[],
    };
    definition(names, "Namespaced", version)
}
