//! Objects of an installation, in the order in which they are removed
//! (`docs/operations.md#removing-the-control-plane`).

use serde_json::{Value, json};

use crate::{InstallError, Installation};

/// Kind of the custom resource definitions. The removal of a definition removes all its custom resources.
const DEFINITION: &str = "CustomResourceDefinition";

/// Kinds that are removed first, in this order.
///
/// The webhook registrations come first: the API server would otherwise deny Pods because it cannot call the control
/// plane. The Deployment comes before the definitions, so that the control plane writes no resource of a removed
/// definition.
const FIRST: [&str; 4] = [
    "MutatingWebhookConfiguration",
    "ValidatingWebhookConfiguration",
    "Deployment",
    "DaemonSet",
];
/// Kinds that are removed last, in this order. All kinds in neither list are removed between the two.
const LAST: [&str; 4] = ["ClusterRoleBinding", "ClusterRole", DEFINITION, "Namespace"];

/// Whether the custom resources are removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CustomResources {
    /// The definitions stay, and with them all Meshes and other custom resources outside of the control plane's
    /// namespace.
    Keep,
    /// The definitions and all custom resources of all namespaces are removed.
    Remove,
}

/// Returns the identities (API version, kind, name, namespace) of all objects that an installation in `namespace` can
/// have, in the order of removal.
///
/// # Errors
/// When the objects of an installation cannot be rendered.
pub fn removal(namespace: &str, custom_resources: CustomResources) -> Result<Vec<Value>, InstallError> {
    let mut objects = largest_installation(namespace).objects()?;
    if custom_resources == CustomResources::Keep {
        objects.retain(|object| object["kind"] != DEFINITION);
    }
    objects.sort_by_key(rank);
    Ok(objects.iter().map(identity).collect())
}

/// Returns an installation that has each object that an installation can have.
fn largest_installation(namespace: &str) -> Installation {
    let mut installation = Installation::new(namespace);
    installation.set("createNamespace", true.into());
    installation.set("controlPlane.replicas", 2.into());
    installation.set("networkPolicies.enabled", true.into());
    installation.set("cni.enabled", true.into());
    installation
}

fn rank(object: &Value) -> usize {
    let position = |kinds: &[&str]| kinds.iter().position(|kind| object["kind"] == *kind);
    match (position(&FIRST), position(&LAST)) {
        (Some(index), _) => index,
        (None, None) => FIRST.len(),
        (None, Some(index)) => FIRST.len() + 1 + index,
    }
}

fn identity(object: &Value) -> Value {
    let mut metadata = json!({"name": object["metadata"]["name"]});
    if let Some(namespace) = object["metadata"].get("namespace") {
        metadata["namespace"] = namespace.clone();
    }
    json!({"apiVersion": object["apiVersion"], "kind": object["kind"], "metadata": metadata})
}
