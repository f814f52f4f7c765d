//! The index, shared: one task writes it, whoever serves reads it.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::controller::writer;
use crate::index::{Index, PodIdentity};
use kermode_model::{Dataplane, Mesh, MeshName, ObjectKey};

/// The index behind a lock; cheap to clone. Sections are short: nobody waits for IO while holding it.
#[derive(Clone, Debug, Default)]
pub struct SharedIndex(Arc<RwLock<Index>>);

impl SharedIndex {
    /// Shares an index.
    pub fn new(index: Index) -> Self {
        Self(Arc::new(RwLock::new(index)))
    }

    /// For reading.
    pub fn read(&self) -> RwLockReadGuard<'_, Index> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// For the one task that writes.
    pub fn write(&self) -> RwLockWriteGuard<'_, Index> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells `judge` who the proxy of a Pod may be. Nothing is copied: this is asked of each proxy whenever something
    /// changes for it.
    pub fn pod_identity<T>(&self, key: &ObjectKey, judge: impl FnOnce(Option<PodIdentity<'_>>) -> T) -> T {
        judge(self.read().pod_entitlement(key))
    }

    /// A Dataplane and its Mesh, when both are there.
    pub fn dataplane_and_mesh(&self, key: &ObjectKey) -> Option<(Arc<Dataplane>, Arc<Mesh>)> {
        let index = self.read();
        let dataplane = index.view().dataplane(key)?;
        let mesh = index.view().mesh(&dataplane.mesh)?;
        Some((dataplane.clone(), mesh.clone()))
    }
}

impl writer::DesiredSource for SharedIndex {
    fn desired(&self, key: &ObjectKey) -> Option<writer::Desired> {
        let index = self.read();
        let desired = index.desired(key)?;
        Some(writer::Desired {
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
