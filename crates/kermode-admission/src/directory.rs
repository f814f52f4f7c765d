//! What the webhook has to know to answer without asking the API server: namespaces, meshes and ContainerPatches.
//!
//! Apart from the index, so that a burst of Pods never makes an admission wait.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use kermode_crds::ContainerPatchSpec;
use kermode_k8s::convert::facts::{NamespaceFacts, Pairs};

/// The directory; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Directory(Arc<RwLock<Contents>>);

/// What it holds.
#[derive(Debug, Default)]
pub struct Contents {
    /// Namespaces by name.
    pub namespaces: HashMap<Arc<str>, Arc<NamespaceRecord>>,
    /// Names of Mesh resources.
    pub meshes: HashSet<Arc<str>>,
    /// ContainerPatches of the control plane's namespace by name.
    pub container_patches: HashMap<Arc<str>, ContainerPatchSpec>,
}

/// What injection reads of a Namespace.
#[derive(Debug, Default)]
pub struct NamespaceRecord {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations of ours.
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
    /// For reading.
    pub fn read(&self) -> RwLockReadGuard<'_, Contents> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// For whoever follows the watches.
    pub fn write(&self) -> RwLockWriteGuard<'_, Contents> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}
