//! Objects of a cluster that injection reads, taken from manifests in place of the API server.

use std::collections::{BTreeMap, BTreeSet};

use kermode_crds::{ContainerPatch, ContainerPatchSpec, GROUP};
use kermode_model::{DEFAULT_MESH, KubernetesVersion};
use serde_json::Value;

use crate::ManifestError;

/// Namespaces, Meshes and ContainerPatches by name, and the Node with the oldest kubelet.
#[derive(Clone, Debug, Default)]
pub struct ClusterObjects {
    namespaces: BTreeMap<String, NamespaceMetadata>,
    meshes: BTreeSet<String>,
    container_patches: BTreeMap<String, ContainerPatchSpec>,
    oldest_node: Option<(KubernetesVersion, String)>,
}

/// Labels and annotations of a Namespace.
#[derive(Clone, Debug, Default)]
pub struct NamespaceMetadata {
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
}

// === impl ClusterObjects ===

impl ClusterObjects {
    /// Collects the Namespaces, Nodes, Meshes and ContainerPatches among `objects`. `system_namespace` is the namespace
    /// of the control plane, and of a ContainerPatch without a namespace. ContainerPatches of other namespaces are
    /// ignored.
    ///
    /// # Errors
    /// If the labels or annotations of a Namespace, or a ContainerPatch, cannot be decoded.
    pub fn new(objects: &[Value], system_namespace: &str) -> Result<Self, ManifestError> {
        let mut cluster = Self::default();
        for object in objects {
            let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            let api_version = object["apiVersion"].as_str().unwrap_or_default();
            let group = api_version.split_once('/').map_or("", |(group, _)| group);
            match (group, object["kind"].as_str().unwrap_or_default()) {
                ("", "Namespace") => {
                    cluster.namespaces.insert(name, metadata_of(object)?);
                }
                ("", "Node") => {
                    let node = kubelet_version(object).map(|version| (version, name));
                    cluster.oldest_node = cluster.oldest_node.into_iter().chain(node).min();
                }
                (GROUP, "Mesh") => {
                    cluster.meshes.insert(name);
                }
                (GROUP, "ContainerPatch") => {
                    let namespace = object["metadata"]["namespace"].as_str();
                    if namespace.unwrap_or(system_namespace) == system_namespace {
                        let spec = container_patch_spec(&name, object)?;
                        cluster.container_patches.insert(name, spec);
                    }
                }
                _ => {}
            }
        }
        Ok(cluster)
    }

    /// Returns the labels and annotations of a Namespace; `None` if the objects do not contain the Namespace.
    pub fn namespace(&self, name: &str) -> Option<&NamespaceMetadata> {
        self.namespaces.get(name)
    }

    /// Whether the Mesh exists. If the objects contain no Mesh at all, Mesh `default` is assumed to exist, because the
    /// control plane creates it.
    pub fn mesh_exists(&self, name: &str) -> bool {
        self.meshes.contains(name) || (!self.contains_meshes() && name == DEFAULT_MESH)
    }

    /// Whether the objects contain a Mesh.
    pub fn contains_meshes(&self) -> bool {
        !self.meshes.is_empty()
    }

    /// Returns the Node with the oldest kubelet; `None` if the objects contain no Node for Pods with sidecars.
    pub fn oldest_node(&self) -> Option<(&str, KubernetesVersion)> {
        self.oldest_node
            .as_ref()
            .map(|(version, node)| (node.as_str(), *version))
    }

    /// Returns the spec of a ContainerPatch.
    pub fn container_patch(&self, name: &str) -> Option<ContainerPatchSpec> {
        self.container_patches.get(name).cloned()
    }
}

/// Returns the version of a Node's kubelet. Returns `None` if the version cannot be parsed, or if no Pod with a sidecar
/// can be scheduled to the Node. The control plane uses the same conditions.
fn kubelet_version(node: &Value) -> Option<KubernetesVersion> {
    let (labels, info) = (&node["metadata"]["labels"], &node["status"]["nodeInfo"]);
    let is_windows = [&labels["kubernetes.io/os"], &info["operatingSystem"]]
        .into_iter()
        .find_map(Value::as_str)
        == Some("windows");
    let is_virtual = labels["type"] == "virtual-kubelet";
    if node["spec"]["unschedulable"] == true || is_windows || is_virtual {
        return None;
    }
    KubernetesVersion::parse(info["kubeletVersion"].as_str()?)
}

fn container_patch_spec(name: &str, object: &Value) -> Result<ContainerPatchSpec, ManifestError> {
    let patch: Result<ContainerPatch, _> = serde_json::from_value(object.clone());
    patch
        .map(|patch| patch.spec)
        .map_err(|source| ManifestError::Object {
            object: format!("ContainerPatch {name}"),
            source,
        })
}

fn metadata_of(namespace: &Value) -> Result<NamespaceMetadata, ManifestError> {
    let read = |key: &str| {
        let value = namespace["metadata"].get(key).filter(|value| !value.is_null());
        let map = value.map(|value| serde_json::from_value(value.clone()));
        map.transpose()
            .map(Option::unwrap_or_default)
            .map_err(|source| ManifestError::Object {
                object: format!(
                    "Namespace {}: metadata.{key} must be a map of strings",
                    namespace["metadata"]["name"].as_str().unwrap_or_default()
                ),
                source,
            })
    };
    Ok(NamespaceMetadata {
        labels: read("labels")?,
        annotations: read("annotations")?,
    })
}
