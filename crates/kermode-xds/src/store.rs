//! The resource store: what the generator made, shared by every stream.
//!
//! Resources live in scopes: one for each mesh, with what its proxies share, and one for each proxy, with what only
//! that proxy gets. Whoever publishes writes whole batches into one scope; only resources whose version changed
//! count, and only the streams that see the scope are woken. A stream holds two cursors, not a copy: it asks for
//! what changed since it last looked, and when that was too long ago for the bounded log, it compares everything
//! once. So neither an idle nor a slow stream makes the store grow. What only one proxy gets is published while that proxy
//! has a stream here, which the store tells; the proxies of other replicas cost nothing.
//!
//! Locking: one `RwLock` a scope, held by readers for one synchronous step of a stream and by writers for inserting
//! what was encoded beforehand. A stream locks its own scope before the shared one, and a publisher writes the
//! shared one before the proxy's, so that a listener is never seen without the shared cluster it refers to.

mod demand;
mod scope;
mod subscription;
mod view;

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use kermode_envoy::Resource;
pub use kermode_envoy::ResourceKind;
use kermode_model::{MeshName, ObjectKey, ServiceName};
use tokio::sync::watch;

use demand::Demand;
pub use scope::{Change, Entry, Stamps};
use scope::{Scope, Slot};
pub use subscription::{Changes, Subscription};
pub use view::View;

/// How many changes of a scope a stream may be behind before it compares everything instead.
const LOG_CAPACITY: usize = 4096;

/// What a resource is called.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Its kind.
    pub kind: ResourceKind,
    /// Its name.
    pub name: Arc<str>,
}

/// A name and the version that a stream sent of it.
#[derive(Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The resource's name.
    pub name: Arc<str>,
    /// Its version.
    pub version: Arc<str>,
}

/// What a proxy sees of the resources that its mesh shares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Visibility {
    /// All of them.
    #[default]
    All,
    /// Those of these services, and those that belong to no service.
    Only(HashSet<ServiceName>),
}

/// How a proxy's view is put together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// The mesh whose shared resources it sees.
    pub mesh: MeshName,
    /// Which of them.
    pub visibility: Visibility,
    /// Shared resources that it must not get, whatever their service: an outbound listener would take the place of
    /// its own inbound at the same address.
    pub hidden: HashSet<Key>,
}

/// The shared store. Cheap to share behind an `Arc`; see the module's text.
#[derive(Debug)]
pub struct Store {
    meshes: Cells<MeshName>,
    proxies: Cells<ObjectKey>,
    /// Whose streams are here.
    demand: Demand,
    /// Orders all changes of all scopes.
    sequence: AtomicU64,
    log_capacity: usize,
}

/// The scopes of one sort. One that streams wait for is there before anything was published into it.
#[derive(Debug)]
struct Cells<K> {
    cells: RwLock<HashMap<K, Arc<Cell>>>,
    /// Makes an empty one.
    empty: fn() -> Scope,
}

#[derive(Debug)]
struct Cell {
    scope: RwLock<Scope>,
    changed: watch::Sender<u64>,
}

// === impl Store ===

impl Default for Store {
    fn default() -> Self {
        Self::with_log_capacity(LOG_CAPACITY)
    }
}

impl Store {
    /// An empty store whose scopes remember that many changes.
    pub fn with_log_capacity(log_capacity: usize) -> Self {
        Self {
            meshes: Cells::of(Scope::shared),
            proxies: Cells::of(Scope::default),
            demand: Demand::default(),
            sequence: AtomicU64::new(0),
            log_capacity,
        }
    }

    /// Replaces everything that the proxies of a mesh share. Returns how many resources changed.
    pub fn replace_mesh(&self, mesh: &MeshName, resources: Vec<Resource>) -> usize {
        let cell = self.meshes.get_or_insert(mesh);
        self.write(&cell, resources, stale)
    }

    /// Replaces the shared resources of one service of a mesh; none removes it. Returns how many changed.
    pub fn replace_service(
        &self,
        mesh: &MeshName,
        service: &ServiceName,
        mut resources: Vec<Resource>,
    ) -> usize {
        let cell = self.meshes.get_or_insert(mesh);
        for resource in &mut resources {
            resource.service = Some(service.clone());
        }
        self.write(&cell, resources, |scope, wanted| {
            let keys = scope.keys_of(Some(service)).cloned();
            let slots = keys.map(|key| Slot {
                key,
                service: Some(service.clone()),
            });
            slots.filter(|slot| !wanted.contains(slot)).collect()
        })
    }

    /// Forgets what the proxies of a mesh share.
    pub fn remove_mesh(&self, mesh: &MeshName) {
        self.replace_mesh(mesh, Vec::new());
    }

    /// Replaces a proxy's own resources, and how it sees the shared ones. Returns how many resources changed.
    ///
    /// The first time, this is what the proxy's streams wait for.
    pub fn replace_proxy(&self, proxy: &ObjectKey, profile: Profile, resources: Vec<Resource>) -> usize {
        let cell = self.proxies.get_or_insert(proxy);
        let wanted = slots(&resources);
        let fresh = cell.prepare(resources);
        let mut scope = cell.write();
        let removals = stale(&scope, &wanted);
        let changed = scope.apply(&self.sequence, self.log_capacity, fresh, removals);
        let refocused = scope.set_profile(&self.sequence, Some(profile));
        if changed > 0 || refocused {
            cell.announce(&scope);
        }
        changed
    }

    /// Forgets a proxy. Streams that it still has keep what they sent: it may have connections to finish.
    pub fn remove_proxy(&self, proxy: &ObjectKey) {
        let Some(cell) = self.proxies.get(proxy) else {
            return;
        };
        {
            let mut scope = cell.write();
            let all = scope.slots().collect();
            scope.apply(&self.sequence, self.log_capacity, Vec::new(), all);
            if scope.set_profile(&self.sequence, None) {
                cell.announce(&scope);
            }
        }
        drop(cell);
        self.proxies.release(proxy, 1);
    }

    /// The newest change of what the proxies of a mesh share.
    pub fn mesh_sequence(&self, mesh: &MeshName) -> u64 {
        self.meshes.get(mesh).map_or(0, |cell| cell.read().sequence())
    }

    /// Follows what one proxy sees, from now on.
    pub fn subscribe(self: &Arc<Self>, proxy: &ObjectKey) -> Subscription {
        Subscription::new(self.clone(), proxy.clone())
    }

    /// Whether a proxy has a stream here, so that its own resources are needed.
    pub fn is_wanted(&self, proxy: &ObjectKey) -> bool {
        self.demand.is_wanted(proxy)
    }

    /// How many proxies have streams here.
    pub fn proxies_with_streams(&self) -> usize {
        self.demand.len()
    }

    /// Waits until a proxy gains its first stream or loses its last one, see [`Store::is_wanted`]; returns those for which
    /// that may have happened. Cancel safe; for one task.
    pub async fn turned(&self) -> HashSet<ObjectKey> {
        self.demand.turned().await
    }

    /// How many scopes are kept, for tests and metrics: meshes and proxies.
    pub fn len(&self) -> (usize, usize) {
        (self.meshes.read().len(), self.proxies.read().len())
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == (0, 0)
    }

    fn write(
        &self,
        cell: &Cell,
        upserts: Vec<Resource>,
        removals: impl FnOnce(&Scope, &HashSet<Slot>) -> Vec<Slot>,
    ) -> usize {
        let wanted = slots(&upserts);
        let fresh = cell.prepare(upserts);
        let mut scope = cell.write();
        let removals = removals(&scope, &wanted);
        let changed = scope.apply(&self.sequence, self.log_capacity, fresh, removals);
        if changed > 0 {
            cell.announce(&scope);
        }
        changed
    }

    /// The newest sequence number given out.
    fn now(&self) -> u64 {
        self.sequence.load(Ordering::Relaxed)
    }
}

fn slots(resources: &[Resource]) -> HashSet<Slot> {
    let slot = |resource: &Resource| Slot {
        key: Key {
            kind: resource.kind,
            name: resource.name.clone(),
        },
        service: resource.service.clone(),
    };
    resources.iter().map(slot).collect()
}

fn stale(scope: &Scope, wanted: &HashSet<Slot>) -> Vec<Slot> {
    scope.slots().filter(|slot| !wanted.contains(slot)).collect()
}

// === impl Cells ===

impl<K: Clone + Eq + Hash> Cells<K> {
    fn of(empty: fn() -> Scope) -> Self {
        Self {
            cells: RwLock::default(),
            empty,
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<K, Arc<Cell>>> {
        self.cells.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, key: &K) -> Option<Arc<Cell>> {
        self.read().get(key).cloned()
    }

    fn get_or_insert(&self, key: &K) -> Arc<Cell> {
        if let Some(cell) = self.get(key) {
            return cell;
        }
        let mut cells = self.cells.write().unwrap_or_else(PoisonError::into_inner);
        cells
            .entry(key.clone())
            .or_insert_with(|| Arc::new(Cell::new((self.empty)())))
            .clone()
    }

    /// Drops an unpublished scope that nobody but the map and `holders` less one others refers to.
    fn release(&self, key: &K, holders: usize) {
        let mut cells = self.cells.write().unwrap_or_else(PoisonError::into_inner);
        let unused = cells
            .get(key)
            .is_some_and(|cell| Arc::strong_count(cell) <= holders && cell.read().profile().is_none());
        if unused {
            cells.remove(key);
        }
    }
}

// === impl Cell ===

impl Cell {
    fn new(scope: Scope) -> Self {
        Self {
            scope: RwLock::new(scope),
            changed: watch::Sender::new(0),
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Scope> {
        self.scope.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Scope> {
        self.scope.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Encodes what is new, before the scope is locked for writing.
    fn prepare(&self, resources: Vec<Resource>) -> Vec<Entry> {
        let scope = self.read();
        let changed: Vec<Resource> = resources
            .into_iter()
            .filter(|resource| scope.differs(resource))
            .collect();
        drop(scope);
        changed.into_iter().map(Entry::new).collect()
    }

    fn announce(&self, scope: &Scope) {
        self.changed.send_replace(scope.sequence());
    }
}

#[cfg(test)]
mod tests;
