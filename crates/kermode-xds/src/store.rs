//! Resource store: the generated resources, shared by all streams.
//!
//! ```text
//! publisher ──replace_*, update_*──▶ Store ──Watcher::read──▶ View, Changes ──▶ stream (one for each proxy)
//! ```
//!
//! The store is divided into scopes. The scope of a mesh holds the resources that its proxies share. The scope of a
//! proxy holds the resources of that proxy alone: its own resources. Each call of the publisher writes to one scope.
//! Only resources whose version changed count as changes, and only streams that read the scope are woken.
//!
//! A stream holds cursors into the change logs of its two scopes, not a copy of the resources. If a log no longer
//! reaches back to the cursor, the stream compares all names once. The store therefore does not grow while streams are
//! idle or slow. Own resources of a proxy are published only while the proxy has a stream on this replica, see
//! [`Store::demand_changed`].
//!
//! Each scope has one `RwLock`. A reader holds the lock for one synchronous step of a stream. A writer encodes entries
//! before it takes the lock. A stream locks the scope of its proxy before the scope of the mesh. The publisher writes
//! the scope of the mesh first, so that no stream sees a listener before the clusters of that listener.

mod demand;
mod profile;
mod scope;
mod scopes;
mod view;
mod watcher;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kermode_envoy::Resource;
pub use kermode_envoy::ResourceKind;
use kermode_model::{MeshName, ObjectKey, ServiceName};

use demand::Demand;
pub use profile::{Profile, ServiceSelection, Tombstones};
pub use scope::{Change, Entry, VersionedNames};
use scope::{EntryId, Scope};
use scopes::{ScopeLock, Scopes};
pub use view::View;
pub use watcher::{Changes, Watcher};

/// Maximum number of changes that the log of a scope holds. A stream that is further behind compares all names instead.
/// In a mesh of a thousand services, the comparison costs about as much as reading a log of this length.
const LOG_CAPACITY: usize = 4096;

/// Kind and name of a resource.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Kind of the resource.
    pub kind: ResourceKind,
    /// Name of the resource.
    pub name: Arc<str>,
}

/// Name and version of a resource as sent to a proxy.
#[derive(Debug, PartialEq, Eq)]
pub struct VersionedName {
    /// Name of the resource.
    pub name: Arc<str>,
    /// Version of the resource.
    pub version: Arc<str>,
}

/// Number of scopes in a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScopeCounts {
    /// Number of scopes of meshes.
    pub meshes: usize,
    /// Number of scopes of proxies.
    pub proxies: usize,
}

/// The resource store. Share it in an `Arc`.
#[derive(Debug)]
pub struct Store {
    meshes: Scopes<MeshName>,
    proxies: Scopes<ObjectKey>,
    demand: Demand,
    /// Sequence number of the newest change. One counter orders the changes of all scopes.
    sequence: AtomicU64,
    log_capacity: usize,
}

// === impl Store ===

impl Default for Store {
    fn default() -> Self {
        Self::with_log_capacity(LOG_CAPACITY)
    }
}

impl Store {
    /// Creates an empty store. The log of each scope holds at most `log_capacity` changes.
    pub fn with_log_capacity(log_capacity: usize) -> Self {
        Self {
            meshes: Scopes::new(Scope::shared),
            proxies: Scopes::new(Scope::default),
            demand: Demand::default(),
            sequence: AtomicU64::new(0),
            log_capacity,
        }
    }

    /// Replaces all shared resources of a mesh. Returns the number of resources that changed.
    pub fn replace_mesh(&self, mesh: &MeshName, resources: Vec<Resource>) -> usize {
        let scope_lock = self.meshes.get_or_insert(mesh);
        self.write(&scope_lock, resources, unwanted)
    }

    /// Replaces the shared resources of one service; an empty list removes the service. Returns the number of resources
    /// that changed.
    pub fn replace_service(
        &self,
        mesh: &MeshName,
        service: &ServiceName,
        mut resources: Vec<Resource>,
    ) -> usize {
        for resource in &mut resources {
            resource.service = Some(service.clone());
        }
        let scope_lock = self.meshes.get_or_insert(mesh);
        self.write(&scope_lock, resources, |scope, wanted| {
            let keys = scope.keys_of(Some(service)).cloned();
            let ids = keys.map(|key| EntryId {
                key,
                service: Some(service.clone()),
            });
            ids.filter(|id| !wanted.contains(id)).collect()
        })
    }

    /// Removes the shared resources of a mesh.
    pub fn remove_mesh(&self, mesh: &MeshName) {
        self.replace_mesh(mesh, Vec::new());
    }

    /// Replaces the own resources and the profile of a proxy. Returns the number of resources that changed.
    ///
    /// The first call publishes the proxy. Before this call, the streams of the proxy have no view.
    pub fn replace_proxy(&self, proxy: &ObjectKey, profile: Profile, resources: Vec<Resource>) -> usize {
        let scope_lock = self.proxies.get_or_insert(proxy);
        let ids = entry_ids(&resources);
        let entries = scope_lock.encode_changed(resources);
        let mut scope = scope_lock.write();
        let removals = unwanted(&scope, &ids);
        let changed = scope.apply(&self.sequence, self.log_capacity, entries, removals);
        let profile_changed = scope.set_profile(&self.sequence, self.log_capacity, Some(profile));
        if changed > 0 || profile_changed {
            scope_lock.notify(&scope);
        }
        changed
    }

    /// Changes some of the own resources of a proxy and keeps the others. Returns the number of resources that changed,
    /// or `None` if the proxy is not published.
    pub fn update_proxy(&self, proxy: &ObjectKey, upserts: Vec<Resource>, removals: &[Key]) -> Option<usize> {
        let scope_lock = self.proxies.get(proxy)?;
        scope_lock.read().profile()?;
        Some(self.write(&scope_lock, upserts, |scope, upserts| {
            let removed = removals.iter().flat_map(|key| scope.ids_of(key));
            removed.filter(|id| !upserts.contains(id)).collect()
        }))
    }

    /// Applies `change` to the profile of a published proxy. Returns whether the profile changed: always `false` for a
    /// proxy that is not published.
    pub fn update_profile(&self, proxy: &ObjectKey, change: impl FnOnce(&mut Profile)) -> bool {
        let Some(scope_lock) = self.proxies.get(proxy) else {
            return false;
        };
        let mut scope = scope_lock.write();
        let Some(mut profile) = scope.profile().cloned() else {
            return false;
        };
        change(&mut profile);
        let changed = scope.set_profile(&self.sequence, self.log_capacity, Some(profile));
        if changed {
            scope_lock.notify(&scope);
        }
        changed
    }

    /// Removes a published proxy. Its open streams lose their view and send nothing, so the proxy keeps its
    /// configuration.
    pub fn remove_proxy(&self, proxy: &ObjectKey) {
        let Some(scope_lock) = self.proxies.get(proxy) else {
            return;
        };
        {
            let mut scope = scope_lock.write();
            let all = scope.ids().collect();
            scope.apply(&self.sequence, self.log_capacity, Vec::new(), all);
            if scope.set_profile(&self.sequence, self.log_capacity, None) {
                scope_lock.notify(&scope);
            }
        }
        drop(scope_lock);
        // The scope is unused if only the map refers to it.
        self.proxies.remove_unused(proxy, 1);
    }

    /// Returns the sequence number of the newest change of a mesh's shared resources.
    pub fn mesh_sequence(&self, mesh: &MeshName) -> u64 {
        self.meshes.get(mesh).map_or(0, |scope| scope.read().sequence())
    }

    /// Returns a watcher of a proxy's view, for one stream. The proxy counts as having a stream while the watcher
    /// exists.
    pub fn watch(self: &Arc<Self>, proxy: &ObjectKey) -> Watcher {
        Watcher::new(self.clone(), proxy.clone())
    }

    /// Returns whether a proxy has a stream on this replica. Own resources are published only for such proxies.
    pub fn has_stream(&self, proxy: &ObjectKey) -> bool {
        self.demand.has_stream(proxy)
    }

    /// Number of proxies that have a stream on this replica.
    pub fn proxies_with_streams(&self) -> usize {
        self.demand.proxy_count()
    }

    /// Waits until a proxy gains its first stream or loses its last stream. Returns all proxies for which this has
    /// happened since the last call; [`Store::has_stream`] returns their current state. Cancel safe. Only one task may
    /// wait.
    pub async fn demand_changed(&self) -> HashSet<ObjectKey> {
        self.demand.changed().await
    }

    /// Returns the number of scopes.
    pub fn scope_counts(&self) -> ScopeCounts {
        ScopeCounts {
            meshes: self.meshes.len(),
            proxies: self.proxies.len(),
        }
    }

    /// Inserts `upserts` and removes the entries that `select_removals` returns for the scope and the ids of `upserts`.
    /// Returns the number of resources that changed.
    fn write(
        &self,
        scope_lock: &ScopeLock,
        upserts: Vec<Resource>,
        select_removals: impl FnOnce(&Scope, &HashSet<EntryId>) -> Vec<EntryId>,
    ) -> usize {
        let ids = entry_ids(&upserts);
        let entries = scope_lock.encode_changed(upserts);
        let mut scope = scope_lock.write();
        let removals = select_removals(&scope, &ids);
        let changed = scope.apply(&self.sequence, self.log_capacity, entries, removals);
        if changed > 0 {
            scope_lock.notify(&scope);
        }
        changed
    }

    /// Newest sequence number of all scopes.
    fn sequence(&self) -> u64 {
        self.sequence.load(Ordering::Relaxed)
    }
}

fn entry_ids(resources: &[Resource]) -> HashSet<EntryId> {
    let id = |resource: &Resource| EntryId {
        key: Key {
            kind: resource.kind,
            name: resource.name.clone(),
        },
        service: resource.service.clone(),
    };
    resources.iter().map(id).collect()
}

/// Returns the ids of a scope's entries that are not in `wanted`.
fn unwanted(scope: &Scope, wanted: &HashSet<EntryId>) -> Vec<EntryId> {
    scope.ids().filter(|id| !wanted.contains(id)).collect()
}

#[cfg(test)]
mod tests;
