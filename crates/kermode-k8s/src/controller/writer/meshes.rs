//! Dataplanes whose Mesh is not there: they are written as soon as it is, and nobody is asked in vain until then.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use kermode_model::{MeshName, ObjectKey};

/// Which Dataplanes wait for which Mesh.
#[derive(Debug, Default)]
pub(super) struct WaitingForMesh(Mutex<HashMap<MeshName, HashSet<ObjectKey>>>);

impl WaitingForMesh {
    pub(super) fn add(&self, mesh: MeshName, key: ObjectKey) {
        self.all().entry(mesh).or_default().insert(key);
    }

    /// Those that waited for a Mesh; they wait no more.
    pub(super) fn take(&self, mesh: &MeshName) -> HashSet<ObjectKey> {
        self.all().remove(mesh).unwrap_or_default()
    }

    fn all(&self) -> MutexGuard<'_, HashMap<MeshName, HashSet<ObjectKey>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
