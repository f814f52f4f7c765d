//! Dataplanes that wait for their Mesh. The admission webhook denies a Dataplane whose Mesh does not exist.

use std::collections::{HashMap, HashSet};

use kermode_model::{MeshName, ObjectKey};
use parking_lot::Mutex;

/// Dataplanes that wait for their Mesh, by mesh.
#[derive(Debug, Default)]
pub(super) struct WaitingForMesh(Mutex<HashMap<MeshName, HashSet<ObjectKey>>>);

impl WaitingForMesh {
    pub(super) fn add(&self, mesh: MeshName, key: ObjectKey) {
        self.0.lock().entry(mesh).or_default().insert(key);
    }

    /// Removes and returns the Dataplanes that wait for a Mesh.
    pub(super) fn take(&self, mesh: &MeshName) -> HashSet<ObjectKey> {
        self.0.lock().remove(mesh).unwrap_or_default()
    }
}
