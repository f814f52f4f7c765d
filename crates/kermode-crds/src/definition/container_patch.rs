//! CustomResourceDefinition of ContainerPatch.

use serde_json::{Value, json};

use super::{Names, definition, object, root_schema, text, with_description};

pub(super) fn container_patch() -> Value {
    let operation = json!({
        "type": "object",
        "description": "One JSON patch operation.",
        "properties": {
            "op": {
                "type": "string",
                "enum": ["add", "remove", "replace", "move", "copy"],
                "description": "Operation of RFC 6902; add creates missing parents.",
            },
            "path": {"type": "string", "description": "JSON pointer to the changed value."},
            "from": {"type": "string", "description": "JSON pointer to the source of move and copy."},
            "value": {"type": "string", "description": "New value, as the text of a JSON document."},
        },
        "required": ["op", "path"],
    });
    let operations =
        |description: &str| json!({"type": "array", "description": description, "items": operation});
    let spec = object(json!({
        "sidecarPatch": operations("Operations on kuma-sidecar, in order."),
        "initPatch": operations("Operations on the init container, kuma-init or kuma-validation, in order."),
    }));
    let schema = root_schema(json!({
        "mesh": text("Accepted for compatibility with Kuma, without effect."),
        "spec": with_description(spec, "Patches of the containers that injection adds."),
    }));
    let version = json!({"schema": {"openAPIV3Schema": schema}});
    let names = Names {
        kind: "ContainerPatch",
        plural: "containerpatches",
        singular: "containerpatch",
        short: &[],
    };
    definition(names, "Namespaced", version)
}
