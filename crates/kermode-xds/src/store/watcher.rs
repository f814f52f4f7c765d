//! Watcher of one proxy's view: holds the two scopes that a stream reads, and the stream's cursor into the log of each
//! scope.

use std::sync::Arc;

use kermode_model::{MeshName, ObjectKey};
use tokio::sync::watch;

use super::scope::{LogEntry, LoggedChange, Scope};
use super::scopes::ScopeLock;
use super::{Change, Store, View};

/// Changes of a view since the stream last read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changes {
    /// The changes. A key may occur more than once, and may name a resource that is not in the view.
    Known(Vec<Change>),
    /// Any resource may have changed: this is the first read, a log does not reach back to the cursor, or the profile
    /// has changed in a way that may concern any resource. The stream compares the names and versions of all resources.
    Unknown,
}

/// [`Change::since`] of a resource for which only the profile changed: the resource itself may have been published at
/// any time before.
const SINCE_ANY_TIME: u64 = 0;

/// Watches the view of one proxy for one stream. Holds two cursors and no resources.
#[derive(Debug)]
pub struct Watcher {
    store: Arc<Store>,
    proxy: ObjectKey,
    /// Cursor into the scope of the proxy.
    own: ScopeCursor,
    /// Mesh of the profile, and the cursor into the scope of that mesh. `None` before the proxy is published.
    shared: Option<(MeshName, ScopeCursor)>,
}

/// A scope, and the position up to which the stream has read the scope's log.
#[derive(Debug)]
struct ScopeCursor {
    scope: Arc<ScopeLock>,
    /// Receives the scope's newest sequence number after each change.
    sequence_receiver: watch::Receiver<u64>,
    /// Sequence number up to which the log has been read; `None` before the first read.
    cursor: Option<u64>,
}

// === impl Watcher ===

impl Watcher {
    pub(super) fn new(store: Arc<Store>, proxy: ObjectKey) -> Self {
        let own = ScopeCursor::new(store.proxies.get_or_insert(&proxy));
        store.demand.add_stream(&proxy);
        Self {
            store,
            proxy,
            own,
            shared: None,
        }
    }

    /// Waits until the view may have changed. Cancel safe.
    pub async fn changed(&mut self) {
        let own = self.own.sequence_receiver.changed();
        // The channels cannot be closed, because this watcher holds the scopes, which hold the senders.
        let _ = match &mut self.shared {
            None => own.await,
            Some((_, shared)) => tokio::select! {
                changed = own => changed,
                changed = shared.sequence_receiver.changed() => changed,
            },
        };
    }

    /// Calls `step` with the current view and the changes since the last call.
    ///
    /// The view is `None` while the proxy is not published, and if the proxy moves to another mesh during this call.
    /// The scopes are locked during the call, so `step` must not block.
    pub fn read<T>(&mut self, step: impl FnOnce(Option<View<'_>>, Changes) -> T) -> T {
        self.follow_mesh();
        let own_scope = self.own.scope.read();
        let (Some(profile), Some((mesh, shared))) = (own_scope.profile(), &mut self.shared) else {
            self.own.cursor = None;
            return step(None, Changes::Known(Vec::new()));
        };
        if *mesh != profile.mesh {
            // The proxy moved to another mesh since `follow_mesh`. The change of its profile wakes the stream again.
            return step(None, Changes::Known(Vec::new()));
        }
        // The `Arc` of the scope is not cloned, because thousands of streams would contend for its reference count.
        let shared_scope = shared.scope.read();
        let shared_cursor_before = shared.cursor;
        let own_changes = advance(
            &mut self.own.sequence_receiver,
            &mut self.own.cursor,
            &own_scope,
            &shared_scope,
        );
        let shared_changes = advance(
            &mut shared.sequence_receiver,
            &mut shared.cursor,
            &shared_scope,
            &shared_scope,
        );
        let changes = match (own_changes, shared_changes) {
            (Some(mut changes), Some(shared_changes)) => {
                changes.extend(shared_changes);
                Changes::Known(changes)
            }
            _ => Changes::Unknown,
        };
        let view = View {
            own: &own_scope,
            shared: &shared_scope,
            profile,
            shared_cursor_before,
            sequence: self.store.sequence(),
        };
        step(Some(view), changes)
    }

    /// Switches to the scope of the profile's mesh, if the mesh has changed since the last read.
    fn follow_mesh(&mut self) {
        let own = self.own.scope.read();
        let current_mesh = self.shared.as_ref().map(|(mesh, _)| mesh);
        let mesh = own.profile().map(|profile| &profile.mesh);
        if let Some(mesh) = mesh.filter(|mesh| current_mesh != Some(mesh)) {
            let cursor = ScopeCursor::new(self.store.meshes.get_or_insert(mesh));
            self.shared = Some((mesh.clone(), cursor));
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.store.demand.remove_stream(&self.proxy);
        // The scope is unused if only the map and this watcher refer to it.
        self.store.proxies.remove_unused(&self.proxy, 2);
    }
}

// === impl ScopeCursor ===

impl ScopeCursor {
    fn new(scope: Arc<ScopeLock>) -> Self {
        let sequence_receiver = scope.subscribe();
        Self {
            scope,
            sequence_receiver,
            cursor: None,
        }
    }
}

/// Moves a cursor to the end of the log of `scope`. Returns the changes between the old and the new position of the
/// cursor, or `None` if they are unknown. `shared_scope` is the scope of the mesh.
///
/// A [`LoggedChange::SelectedService`] yields a change of each resource that the service has in `shared_scope` now.
/// Resources that the service no longer has are left out, because the log of `shared_scope` contains their removals.
fn advance(
    sequence_receiver: &mut watch::Receiver<u64>,
    cursor: &mut Option<u64>,
    scope: &Scope,
    shared_scope: &Scope,
) -> Option<Vec<Change>> {
    sequence_receiver.mark_unchanged();
    let old_position = cursor.replace(scope.sequence())?;
    let mut changes = Vec::new();
    for LogEntry { sequence, logged } in scope.log_since(old_position)? {
        let change = |since, key| Change {
            sequence: *sequence,
            since,
            key,
        };
        match logged {
            LoggedChange::Resource(key) => changes.push(change(*sequence, key.clone())),
            LoggedChange::HiddenResource(key) => changes.push(change(SINCE_ANY_TIME, key.clone())),
            LoggedChange::SelectedService(service) => {
                let keys = shared_scope.keys_of(Some(service)).cloned();
                changes.extend(keys.map(|key| change(SINCE_ANY_TIME, key)));
            }
        }
    }
    Some(changes)
}
