//! One scope of the store: resources by kind and name, by service, and the bounded log of their changes.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use kermode_envoy::{Resource, ResourceKind};
use kermode_model::ServiceName;

use super::{Key, Profile, Stamp};
use crate::wire;

/// A resource as it is stored: encoded for the wire, and dated.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its kind.
    pub kind: ResourceKind,
    /// Its name and version.
    pub stamp: Arc<Stamp>,
    /// The encoded [`wire::Resource`].
    pub encoded: Bytes,
    /// The service it belongs to.
    pub service: Option<ServiceName>,
    /// When a resource of this name was first published since there last was none.
    pub created: u64,
    /// When this version was published.
    pub sequence: u64,
}

/// A resource appeared, changed or went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// When, in the order of all changes of the store.
    pub sequence: u64,
    /// Which.
    pub key: Key,
}

/// The state of a scope. The profile is there once a proxy's scope was published; a mesh has none.
#[derive(Debug, Default)]
pub(super) struct Scope {
    entries: [HashMap<Arc<str>, Arc<Entry>>; ResourceKind::ALL.len()],
    by_service: HashMap<ServiceName, BTreeSet<Key>>,
    of_no_service: BTreeSet<Key>,
    profile: Option<Profile>,
    log: VecDeque<Change>,
    /// The newest change that the log does not hold any more.
    floor: u64,
    /// The newest change.
    sequence: u64,
}

// === impl Entry ===

impl Entry {
    pub(super) fn new(resource: Resource) -> Self {
        let Resource {
            kind,
            name,
            version,
            body,
            service,
        } = resource;
        let encoded = wire::encode_resource(kind.type_url(), &name, &version, body);
        Self {
            kind,
            stamp: Arc::new(Stamp { name, version }),
            encoded,
            service,
            created: 0,
            sequence: 0,
        }
    }

    /// What it is called.
    pub fn key(&self) -> Key {
        Key {
            kind: self.kind,
            name: self.stamp.name.clone(),
        }
    }
}

// === impl Scope ===

impl Scope {
    pub(super) fn get(&self, kind: ResourceKind, name: &str) -> Option<&Arc<Entry>> {
        self.entries[kind as usize].get(name)
    }

    pub(super) fn of_kind(&self, kind: ResourceKind) -> impl Iterator<Item = &Arc<Entry>> {
        self.entries[kind as usize].values()
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = Key> {
        self.entries
            .iter()
            .flat_map(HashMap::values)
            .map(|entry| entry.key())
    }

    /// The resources of one service, or of none.
    pub(super) fn keys_of(&self, service: Option<&ServiceName>) -> impl Iterator<Item = &Key> {
        let group = match service {
            Some(service) => self.by_service.get(service),
            None => Some(&self.of_no_service),
        };
        group.into_iter().flatten()
    }

    pub(super) fn profile(&self) -> Option<&Profile> {
        self.profile.as_ref()
    }

    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Whether publishing this would change anything.
    pub(super) fn differs(&self, resource: &Resource) -> bool {
        self.get(resource.kind, &resource.name)
            .is_none_or(|entry| entry.stamp.version != resource.version || entry.service != resource.service)
    }

    /// What changed after that point, oldest first; `None` when the log does not reach back that far.
    pub(super) fn since(&self, cursor: u64) -> Option<impl Iterator<Item = &Change>> {
        let known = self.log.partition_point(|change| change.sequence <= cursor);
        (cursor >= self.floor).then(|| self.log.range(known..))
    }

    /// Puts a batch in; all of it carries one sequence number. Returns how much of it was news.
    pub(super) fn apply(
        &mut self,
        clock: &AtomicU64,
        log_capacity: usize,
        upserts: Vec<Entry>,
        removals: Vec<Key>,
    ) -> usize {
        let mut changed = Vec::new();
        let sequence = clock.fetch_add(1, Ordering::Relaxed) + 1;
        for key in removals {
            if self.remove(&key) {
                changed.push(key);
            }
        }
        for entry in upserts {
            changed.push(entry.key());
            self.insert(entry, sequence);
        }
        if changed.is_empty() {
            return 0;
        }
        self.sequence = sequence;
        let count = changed.len();
        self.log
            .extend(changed.into_iter().map(|key| Change { sequence, key }));
        while self.log.len() > log_capacity {
            if let Some(change) = self.log.pop_front() {
                self.floor = change.sequence;
            }
        }
        count
    }

    /// Says how the proxy sees its mesh. A change makes every stream compare everything.
    pub(super) fn set_profile(&mut self, clock: &AtomicU64, profile: Option<Profile>) -> bool {
        if self.profile == profile {
            return false;
        }
        self.profile = profile;
        self.sequence = clock.fetch_add(1, Ordering::Relaxed) + 1;
        self.floor = self.sequence;
        self.log.clear();
        true
    }

    fn insert(&mut self, mut entry: Entry, sequence: u64) {
        let key = entry.key();
        let old = self.get(key.kind, &key.name).cloned();
        entry.sequence = sequence;
        entry.created = old.as_ref().map_or(sequence, |old| old.created);
        if let Some(old) = old.filter(|old| old.service != entry.service) {
            self.unindex(old.service.as_ref(), &key);
        }
        match &entry.service {
            Some(service) => self
                .by_service
                .entry(service.clone())
                .or_default()
                .insert(key.clone()),
            None => self.of_no_service.insert(key.clone()),
        };
        self.entries[key.kind as usize].insert(key.name, Arc::new(entry));
    }

    fn remove(&mut self, key: &Key) -> bool {
        let Some(old) = self.entries[key.kind as usize].remove(&key.name) else {
            return false;
        };
        self.unindex(old.service.as_ref(), key);
        true
    }

    fn unindex(&mut self, service: Option<&ServiceName>, key: &Key) {
        let Some(service) = service else {
            self.of_no_service.remove(key);
            return;
        };
        if let Some(group) = self.by_service.get_mut(service) {
            group.remove(key);
            if group.is_empty() {
                self.by_service.remove(service);
            }
        }
    }
}
