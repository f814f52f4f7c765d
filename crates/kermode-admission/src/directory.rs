//! Directory of the objects that admission reads: Namespaces, Meshes and ContainerPatches.
//!
//! The directory is separate from the index, so that a burst of Pod events does not delay an admission.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use kermode_crds::ContainerPatchSpec;
use kermode_k8s::convert::facts::{NamespaceFacts, Pairs};
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Objects that admission reads. The engine updates the directory from its watches. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Directory(Arc<RwLock<Contents>>);

/// Contents of a [`Directory`].
#[derive(Debug, Default)]
pub struct Contents {
    /// Namespaces, by name.
    pub namespaces: HashMap<Arc<str>, Arc<NamespaceRecord>>,
    /// Names of Mesh resources.
    pub meshes: HashSet<Arc<str>>,
    /// ContainerPatches of the control plane's namespace, by name.
    pub container_patches: HashMap<Arc<str>, ContainerPatchSpec>,
}

/// Labels and annotations of a Namespace.
#[derive(Debug, Default)]
pub struct NamespaceRecord {
    /// All labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations with `kuma.io/` in the key.
    pub annotations: BTreeMap<String, String>,
}

impl From<&NamespaceFacts> for NamespaceRecord {
    fn from(facts: &NamespaceFacts) -> Self {
        let map = |pairs: &Pairs| {
            pairs
                .iter()
                .map(|(key, value)| (key.to_string(), value.to_string()))
                .collect()
        };
        Self {
            labels: map(&facts.labels),
            annotations: map(&facts.annotations),
        }
    }
}

impl Directory {
    /// Locks the directory for reading.
    pub fn read(&self) -> RwLockReadGuard<'_, Contents> {
        self.0.read()
    }

    /// Locks the directory for writing.
    pub fn write(&self) -> RwLockWriteGuard<'_, Contents> {
        self.0.write()
    }
}
