//! Map of scopes by mesh or by proxy. Each scope has a lock, and a channel that wakes the streams that read the scope.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use kermode_envoy::Resource;
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::sync::watch;

use super::scope::{Entry, Scope};

/// The scopes of all meshes, or of all proxies. The first publication creates a scope, unless the
/// [`Watcher`](super::Watcher) of a stream that reads the scope has created it before.
#[derive(Debug)]
pub(super) struct Scopes<K> {
    scopes: RwLock<HashMap<K, Arc<ScopeLock>>>,
    /// Creates an empty scope.
    new_scope: fn() -> Scope,
}

/// A scope, its lock, and the channel that carries its newest sequence number to the streams that read the scope.
#[derive(Debug)]
pub(super) struct ScopeLock {
    scope: RwLock<Scope>,
    sequence: watch::Sender<u64>,
}

// === impl Scopes ===

impl<K: Clone + Eq + Hash> Scopes<K> {
    pub(super) fn new(new_scope: fn() -> Scope) -> Self {
        Self {
            scopes: RwLock::default(),
            new_scope,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.scopes.read().len()
    }

    pub(super) fn get(&self, key: &K) -> Option<Arc<ScopeLock>> {
        self.scopes.read().get(key).cloned()
    }

    pub(super) fn get_or_insert(&self, key: &K) -> Arc<ScopeLock> {
        if let Some(scope) = self.get(key) {
            return scope;
        }
        let mut scopes = self.scopes.write();
        scopes
            .entry(key.clone())
            .or_insert_with(|| Arc::new(ScopeLock::new((self.new_scope)())))
            .clone()
    }

    /// Removes the scope of a key, if the scope has no profile, that is, belongs to no published proxy, and at most
    /// `max_references` references to the scope exist, including the reference of this map.
    pub(super) fn remove_unused(&self, key: &K, max_references: usize) {
        let mut scopes = self.scopes.write();
        let unused = scopes.get(key).is_some_and(|scope| {
            Arc::strong_count(scope) <= max_references && scope.read().profile().is_none()
        });
        if unused {
            scopes.remove(key);
        }
    }
}

// === impl ScopeLock ===

impl ScopeLock {
    fn new(scope: Scope) -> Self {
        Self {
            scope: RwLock::new(scope),
            sequence: watch::Sender::new(0),
        }
    }

    pub(super) fn read(&self) -> RwLockReadGuard<'_, Scope> {
        self.scope.read()
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, Scope> {
        self.scope.write()
    }

    /// Encodes the resources that differ from the stored resources. Called before the scope is locked for writing, so
    /// that no stream waits for the encoding.
    pub(super) fn encode_changed(&self, resources: Vec<Resource>) -> Vec<Entry> {
        let scope = self.read();
        let changed: Vec<Resource> = resources
            .into_iter()
            .filter(|resource| scope.differs(resource))
            .collect();
        drop(scope);
        changed.into_iter().map(Entry::new).collect()
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        self.sequence.subscribe()
    }

    /// Wakes the streams that read the scope. `scope` is the content of this lock, which the caller holds.
    pub(super) fn notify(&self, scope: &Scope) {
        self.sequence.send_replace(scope.sequence());
    }
}
