//! The index behind a lock. The engine updates the index, and other components read it.

use std::collections::HashMap;
use std::sync::Arc;

use kermode_model::view::Touched;
use kermode_model::{Dataplane, Mesh, MeshName, ObjectKey};
use parking_lot::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::sync::watch;

use crate::controller::writer;
use crate::index::{Index, PodIdentity};

/// The index behind a lock; cheap to clone. The lock must not be held during IO.
#[derive(Clone, Debug, Default)]
pub struct SharedIndex {
    index: Arc<RwLock<Index>>,
    /// Senders of the [`DataplaneChanges`], by Dataplane.
    changes: Arc<Mutex<HashMap<ObjectKey, watch::Sender<()>>>>,
}

/// Notifications about changes of one Dataplane, and about the end of its application.
#[derive(Debug)]
pub struct DataplaneChanges {
    receiver: watch::Receiver<()>,
    key: ObjectKey,
    index: SharedIndex,
}

impl SharedIndex {
    /// Shares an index.
    pub fn new(index: Index) -> Self {
        Self {
            index: Arc::new(RwLock::new(index)),
            changes: Arc::default(),
        }
    }

    /// Locks the index for reading.
    pub fn read(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read()
    }

    /// Locks the index for writing. Only the engine writes.
    pub fn write(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write()
    }

    /// Subscribes to changes of a Dataplane, which need not exist.
    pub fn changes_of(&self, key: &ObjectKey) -> DataplaneChanges {
        let mut changes = self.changes.lock();
        let sender = changes.entry(key.clone()).or_default();
        DataplaneChanges {
            receiver: sender.subscribe(),
            key: key.clone(),
            index: self.clone(),
        }
    }

    /// Notifies the subscribers of the Dataplanes among the touched parts. The engine calls this after each change.
    pub fn notify_changed(&self, touched: &[Touched]) {
        self.notify(touched.iter().filter_map(|part| match part {
            Touched::Dataplane(key) => Some(key),
            _ => None,
        }));
    }

    /// Notifies the subscribers of Dataplanes whose application has ended. A Dataplane itself may be unchanged.
    pub fn notify_finished(&self, dataplanes: &[Arc<Dataplane>]) {
        self.notify(dataplanes.iter().map(|dataplane| &dataplane.key));
    }

    fn notify<'k>(&self, keys: impl Iterator<Item = &'k ObjectKey>) {
        let mut changes = self.changes.lock();
        for key in keys {
            // Two subscriptions that end at the same time may both leave the sender behind.
            if changes.get(key).is_some_and(|sender| sender.send(()).is_err()) {
                changes.remove(key);
            }
        }
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

impl DataplaneChanges {
    /// Waits until the Dataplane has changed since the subscription, or since the last call.
    pub async fn changed(&mut self) {
        if self.receiver.changed().await.is_err() {
            // The sender exists as long as this subscription.
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for DataplaneChanges {
    fn drop(&mut self) {
        let mut changes = self.index.changes.lock();
        // This receiver still counts.
        if changes
            .get(&self.key)
            .is_some_and(|sender| sender.receiver_count() <= 1)
        {
            changes.remove(&self.key);
        }
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

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn only_subscribers_of_a_touched_dataplane_are_notified() {
        let index = SharedIndex::default();
        let (web, other) = (ObjectKey::new("shop", "web"), ObjectKey::new("shop", "other"));
        let (mut of_web, mut of_other) = (index.changes_of(&web), index.changes_of(&other));
        let mut second_of_web = index.changes_of(&web);
        index.notify_changed(&[Touched::Dataplane(web.clone())]);
        of_web.changed().await;
        second_of_web.changed().await;
        assert!(of_web.changed().now_or_never().is_none());
        assert!(of_other.changed().now_or_never().is_none());
    }

    #[test]
    fn dataplane_without_subscribers_takes_no_memory() {
        let index = SharedIndex::default();
        let web = ObjectKey::new("shop", "web");
        let (first, second) = (index.changes_of(&web), index.changes_of(&web));
        drop(first);
        assert_eq!(index.changes.lock().len(), 1);
        drop(second);
        assert_eq!(index.changes.lock().len(), 0);
    }
}
