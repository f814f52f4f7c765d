//! The index behind a lock. The engine updates the index, and other components read it.

use std::sync::Arc;

use kermode_model::{Dataplane, Mesh, MeshName, ObjectKey};
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::controller::writer;
use crate::index::{Index, PodIdentity};

/// The index behind a lock; cheap to clone. The lock must not be held during IO.
#[derive(Clone, Debug, Default)]
pub struct SharedIndex(Arc<RwLock<Index>>);

impl SharedIndex {
    /// Shares an index.
    pub fn new(index: Index) -> Self {
        Self(Arc::new(RwLock::new(index)))
    }

    /// Locks the index for reading.
    pub fn read(&self) -> RwLockReadGuard<'_, Index> {
        self.0.read()
    }

    /// Locks the index for writing. Only the engine writes.
    pub fn write(&self) -> RwLockWriteGuard<'_, Index> {
        self.0.write()
    }

    /// Calls `check` with the identity of a Pod, or with `None` if the Pod has no running proxy. Returns the result of
    /// `check`. The identity is borrowed, so that frequent checks copy nothing.
    pub fn with_pod_identity<T>(
        &self,
        key: &ObjectKey,
        check: impl FnOnce(Option<PodIdentity<'_>>) -> T,
    ) -> T {
        check(self.read().pod_identity(key))
    }

    /// Returns a Dataplane and its Mesh, if both exist.
    pub fn dataplane_and_mesh(&self, key: &ObjectKey) -> Option<(Arc<Dataplane>, Arc<Mesh>)> {
        let index = self.read();
        let dataplane = index.view().dataplane(key)?;
        let mesh = index.view().mesh(&dataplane.mesh)?;
        Some((dataplane.clone(), mesh.clone()))
    }
}

impl writer::DesiredSource for SharedIndex {
    fn desired(&self, key: &ObjectKey) -> Option<writer::DesiredDataplane> {
        let index = self.read();
        let desired = index.desired(key)?;
        Some(writer::DesiredDataplane {
            dataplane: desired.dataplane.clone(),
            pod_uid: desired.pod_uid.clone(),
        })
    }

    fn is_terminating(&self, namespace: &str) -> bool {
        self.read().is_terminating(namespace)
    }

    fn mesh_exists(&self, mesh: &MeshName) -> bool {
        self.read().view().mesh(mesh).is_some()
    }

    fn keys(&self) -> Vec<ObjectKey> {
        self.read()
            .all_desired()
            .map(|desired| desired.dataplane.key.clone())
            .collect()
    }
}
