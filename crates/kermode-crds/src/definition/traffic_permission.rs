//! CustomResourceDefinition of MeshTrafficPermission.

use serde_json::{Value, json};

use super::{
    Names, column, conditions, definition, object, root_schema, text, with_description, with_required,
};

pub(super) fn mesh_traffic_permission() -> Value {
    let action = object(json!({
        "action": {
            "type": "string",
            "enum": ["Allow", "Deny", "AllowWithShadowDeny"],
            "description": "Allow, Deny, or AllowWithShadowDeny, which allows requests and counts them as shadow_denied in Envoy's statistics.",
        },
    }));
    let from = json!({
        "type": "array",
        "description": "Rules: groups of clients, and the action for each group.",
        "items": {
            "type": "object",
            "properties": {
                "targetRef": target_ref("Clients that the rule applies to."),
                "default": with_description(action, "Action for these clients."),
            },
            "required": ["targetRef"],
        },
    });
    let target = target_ref("Inbounds that the permission applies to.");
    let spec = with_required(object(json!({"targetRef": target, "from": from})), &["targetRef"]);
    let status = object(json!({"conditions": conditions()}));
    let schema = root_schema(json!({
        "spec": with_description(spec, "Inbounds, and the clients that may call them."),
        "status": with_description(status, "State of the permission, written by the control plane."),
    }));
    let condition = |condition: &str| {
        let path = format!(".status.conditions[?(@.type==\"{condition}\")].status");
        column(condition, "string", &path)
    };
    let version = json!({
        "schema": {"openAPIV3Schema": schema},
        "subresources": {"status": {}},
        "additionalPrinterColumns": [
            condition("Accepted"),
            condition("ResolvedRefs"),
            column("Age", "date", ".metadata.creationTimestamp"),
        ],
    });
    let names = Names {
        kind: "MeshTrafficPermission",
        plural: "meshtrafficpermissions",
        singular: "meshtrafficpermission",
        short: &[],
    };
    definition(names, "Namespaced", version)
}

/// Returns the schema of a reference to a group of proxies, or to their inbounds.
fn target_ref(description: &str) -> Value {
    let kinds = json!([
        "Mesh",
        "MeshSubset",
        "MeshService",
        "MeshServiceSubset",
        "MeshGatewayRoute"
    ]);
    let schema = object(json!({
        "kind": {
            "type": "string",
            "enum": kinds,
            "description": "Kind of the group. MeshGatewayRoute is not supported by Kermode.",
        },
        "name": text("Value of kuma.io/service; required with MeshService and MeshServiceSubset."),
        "mesh": text("Accepted for compatibility with Kuma, without effect."),
        "tags": {
            "type": "object",
            "description": "Tags of the proxies, for MeshSubset and MeshServiceSubset.",
            "additionalProperties": {"type": "string"},
        },
    }));
    with_description(schema, description)
}
