//! Dataplanes whose Mesh does not exist. The API server would reject them, so each is written once its Mesh exists.

use std::collections::{HashMap, HashSet};

use kermode_model::{MeshName, ObjectKey};
use parking_lot::Mutex;

/// Waiting Dataplanes by mesh.
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
