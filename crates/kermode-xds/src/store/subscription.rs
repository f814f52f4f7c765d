//! A stream's place in the store: which scopes it sees and how far it has read them.

use std::sync::Arc;

use kermode_model::{MeshName, ObjectKey};
use tokio::sync::watch;

use super::{Cell, Change, Store, View};

/// What is new for a stream since it last looked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changes {
    /// These changed.
    Some(Vec<Change>),
    /// Too much, or the way the proxy sees its mesh: everything has to be compared.
    All,
}

/// Follows what one proxy sees. Holds two cursors and no resources.
#[derive(Debug)]
pub struct Subscription {
    store: Arc<Store>,
    proxy: ObjectKey,
    own: Place,
    shared: Option<(MeshName, Place)>,
}

#[derive(Debug)]
struct Place {
    cell: Arc<Cell>,
    changed: watch::Receiver<u64>,
    /// The newest change that was read; none before the first look.
    cursor: Option<u64>,
}

// === impl Subscription ===

impl Subscription {
    pub(super) fn new(store: Arc<Store>, proxy: ObjectKey) -> Self {
        let own = Place::new(store.proxies.get_or_insert(&proxy));
        store.demand.enter(&proxy);
        Self {
            store,
            proxy,
            own,
            shared: None,
        }
    }

    /// Waits until something that the proxy sees may have changed. Cancel safe.
    pub async fn changed(&mut self) {
        let own = self.own.changed.changed();
        // The senders live in cells that this subscription holds, so neither can be closed.
        let _ = match &mut self.shared {
            None => own.await,
            Some((_, shared)) => tokio::select! {
                changed = own => changed,
                changed = shared.changed.changed() => changed,
            },
        };
    }

    /// Hands what the proxy sees now, and what changed since the last call, to `step`.
    ///
    /// The view is absent while nothing has been published for the proxy, or no longer. The scopes are locked
    /// meanwhile: `step` must not block.
    pub fn read<T>(&mut self, step: impl FnOnce(Option<View<'_>>, Changes) -> T) -> T {
        self.follow_mesh();
        let own_place = &mut self.own;
        let own = own_place.cell.read();
        let (Some(profile), Some((mesh, shared))) = (own.profile(), &mut self.shared) else {
            own_place.cursor = None;
            return step(None, Changes::Some(Vec::new()));
        };
        if *mesh != profile.mesh {
            // Moved to another mesh between the two looks: the change that wakes us next brings us there.
            return step(None, Changes::Some(Vec::new()));
        }
        // Not a reference counted anew: that count is one for thousands of streams.
        let scope = shared.cell.read();
        let read_before = shared.cursor;
        let from_own = advance(&mut own_place.changed, &mut own_place.cursor, &own);
        let from_shared = advance(&mut shared.changed, &mut shared.cursor, &scope);
        let changes = match (from_own, from_shared) {
            (Some(mut changes), Some(more)) => {
                changes.extend(more);
                Changes::Some(changes)
            }
            _ => Changes::All,
        };
        let sequence = self.store.now();
        step(
            Some(View {
                own: &own,
                shared: &scope,
                profile,
                read_before,
                sequence,
            }),
            changes,
        )
    }

    fn follow_mesh(&mut self) {
        let own = self.own.cell.read();
        let followed = self.shared.as_ref().map(|(mesh, _)| mesh);
        let mesh = own.profile().map(|profile| &profile.mesh);
        if let Some(mesh) = mesh.filter(|mesh| followed != Some(mesh)) {
            let place = Place::new(self.store.meshes.get_or_insert(mesh));
            self.shared = Some((mesh.clone(), place));
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.store.demand.leave(&self.proxy);
        // Itself and the map.
        self.store.proxies.release(&self.proxy, 2);
    }
}

// === impl Place ===

impl Place {
    fn new(cell: Arc<Cell>) -> Self {
        let changed = cell.changed.subscribe();
        Self {
            cell,
            changed,
            cursor: None,
        }
    }
}

/// Moves a cursor to its scope's end and returns what it passed; `None` when that is not known.
fn advance(
    changed: &mut watch::Receiver<u64>,
    cursor: &mut Option<u64>,
    scope: &super::Scope,
) -> Option<Vec<Change>> {
    changed.mark_unchanged();
    let cursor = cursor.replace(scope.sequence())?;
    scope.since(cursor).map(|changes| changes.cloned().collect())
}
