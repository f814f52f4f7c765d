//! What a cluster would know: Namespaces, Meshes and ContainerPatches, from objects.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use kermode_crds::{ContainerPatch, ContainerPatchSpec, GROUP};
use serde_json::Value;

/// The objects that injection asks for.
#[derive(Clone, Debug, Default)]
pub(crate) struct World {
    namespaces: BTreeMap<String, Texts>,
    meshes: BTreeSet<String>,
    patches: BTreeMap<String, ContainerPatchSpec>,
}

/// Labels and annotations.
#[derive(Clone, Debug, Default)]
pub(crate) struct Texts {
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) annotations: BTreeMap<String, String>,
}

// === impl World ===

impl World {
    /// Takes what is of use. A ContainerPatch counts in the control plane's namespace only; one that names no
    /// namespace is taken to be meant for it.
    pub(crate) fn new(objects: &[Value], system_namespace: &str) -> Result<Self> {
        let mut world = Self::default();
        for object in objects {
            let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            let version = object["apiVersion"].as_str().unwrap_or_default();
            let group = version.split_once('/').map_or("", |(group, _)| group);
            match (group, object["kind"].as_str().unwrap_or_default()) {
                ("", "Namespace") => drop(world.namespaces.insert(name, texts(object)?)),
                (GROUP, "Mesh") => drop(world.meshes.insert(name)),
                (GROUP, "ContainerPatch") => {
                    let namespace = object["metadata"]["namespace"].as_str();
                    if namespace.unwrap_or(system_namespace) == system_namespace {
                        let patch: ContainerPatch = serde_json::from_value(object.clone())
                            .with_context(|| format!("ContainerPatch {name}"))?;
                        world.patches.insert(name, patch.spec);
                    }
                }
                _ => {}
            }
        }
        Ok(world)
    }

    pub(crate) fn namespace(&self, name: &str) -> Option<&Texts> {
        self.namespaces.get(name)
    }

    /// Whether there is such a Mesh. Where none is given, the one that the control plane makes is there.
    pub(crate) fn has_mesh(&self, name: &str) -> bool {
        self.meshes.contains(name) || (!self.knows_meshes() && name == "default")
    }

    pub(crate) fn knows_meshes(&self) -> bool {
        !self.meshes.is_empty()
    }

    pub(crate) fn container_patch(&self, name: &str) -> Option<ContainerPatchSpec> {
        self.patches.get(name).cloned()
    }
}

fn texts(namespace: &Value) -> Result<Texts> {
    let read = |key: &str| -> Result<BTreeMap<String, String>> {
        let given = namespace["metadata"].get(key).filter(|given| !given.is_null());
        let read = given.map(|given| serde_json::from_value(given.clone()));
        let read = read.transpose().with_context(|| {
            let name = namespace["metadata"]["name"].as_str().unwrap_or_default();
            format!("Namespace {name}: metadata.{key} must hold texts")
        })?;
        Ok(read.unwrap_or_default())
    };
    Ok(Texts {
        labels: read("labels")?,
        annotations: read("annotations")?,
    })
}
