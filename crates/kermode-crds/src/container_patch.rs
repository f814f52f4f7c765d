//! ContainerPatch: JSON patches for the containers that injection adds (Kuma's manual page "Data plane on Kubernetes",
//! section "Custom Container Configuration").

use k8s_openapi::NamespaceResourceScope;
use kube::core::{ObjectMeta, TypeMeta};
use serde::{Deserialize, Serialize};

use crate::object::custom_resource;

/// JSON patches of the sidecar and of the init container, under a name. The object is in the control plane's namespace;
/// Pods of all namespaces can refer to it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ContainerPatch {
    /// API version and kind.
    #[serde(flatten)]
    pub types: Option<TypeMeta>,
    /// Name and namespace.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// Field of Kuma, without effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mesh: Option<String>,
    /// Patches of the sidecar and of the init container.
    #[serde(default)]
    pub spec: ContainerPatchSpec,
}

custom_resource!(ContainerPatch, "containerpatches", NamespaceResourceScope);

/// Patches of a [`ContainerPatch`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerPatchSpec {
    /// Operations on `kuma-sidecar`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sidecar_patch: Vec<JsonPatchBlock>,
    /// Operations on the init container: `kuma-init`, or `kuma-validation` with the CNI plugin.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub init_patch: Vec<JsonPatchBlock>,
}

/// One JSON patch operation (RFC 6902).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JsonPatchBlock {
    /// The operation.
    pub op: JsonPatchOp,
    /// JSON pointer to the value that is added, removed or replaced; the target of `move` and `copy`.
    pub path: String,
    /// JSON pointer to the source of `move` and `copy`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The new value of `add` and `replace`: the text of a JSON document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// Kind of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JsonPatchOp {
    /// Adds a member to an object, or inserts an element into a list. Missing parents are created.
    Add,
    /// Removes the value at `path`.
    Remove,
    /// Replaces the value at `path`.
    Replace,
    /// Moves the value at `from` to `path`.
    Move,
    /// Copies the value at `from` to `path`.
    Copy,
}

impl JsonPatchOp {
    /// Returns the name of the operation in a JSON patch.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Remove => "remove",
            Self::Replace => "replace",
            Self::Move => "move",
            Self::Copy => "copy",
        }
    }
}
