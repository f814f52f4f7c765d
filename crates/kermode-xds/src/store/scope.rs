//! One scope of the store: resources by kind and name, by service, and the bounded log of their changes.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use kermode_envoy::{Resource, ResourceKind};
use kermode_model::ServiceName;
use rpds::HashTrieMapSync;

use super::{Key, Profile, Stamp};
use kermode_protocol::ads;

/// A resource as it is stored: encoded for the wire, and dated.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its kind.
    pub kind: ResourceKind,
    /// Its name and version.
    pub stamp: Arc<Stamp>,
    /// The encoded [`ads::Resource`].
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

/// The stamp of each resource of one kind, by name, at one moment. A copy shares all that has not changed since, so
/// thousands of streams can hold one each.
pub type Stamps = HashTrieMapSync<Arc<str>, Arc<Stamp>>;

/// The state of a scope. The profile is there once a proxy's scope was published; a mesh has none.
#[derive(Debug, Default)]
pub(super) struct Scope {
    /// By kind and name. Services that share a pod's port have listeners of one name: all are kept, first service
    /// first, and a view takes the first that it shows.
    entries: [HashMap<Arc<str>, Vec<Arc<Entry>>>; ResourceKind::ALL.len()],
    /// The stamps of the first of each name, where many streams see the scope.
    stamps: Option<[Stamps; ResourceKind::ALL.len()]>,
    by_service: HashMap<ServiceName, BTreeSet<Key>>,
    of_no_service: BTreeSet<Key>,
    profile: Option<Profile>,
    log: VecDeque<Change>,
    /// The newest change that the log does not hold any more.
    floor: u64,
    /// The newest change.
    sequence: u64,
}

/// A place in a scope.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Slot {
    pub(super) key: Key,
    pub(super) service: Option<ServiceName>,
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
        let encoded = ads::encode_resource(kind.type_url(), &name, &version, body);
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

    fn slot(&self) -> Slot {
        Slot {
            key: self.key(),
            service: self.service.clone(),
        }
    }
}

// === impl Scope ===

impl Scope {
    /// An empty one that many streams will see.
    pub(super) fn shared() -> Self {
        Self {
            stamps: Some(ResourceKind::ALL.map(|_| Stamps::new_sync())),
            ..Self::default()
        }
    }

    /// The resources of a name, in the order in which they are preferred.
    pub(super) fn get(&self, kind: ResourceKind, name: &str) -> &[Arc<Entry>] {
        self.entries[kind as usize]
            .get(name)
            .map(Vec::as_slice)
            .unwrap_or_default()
    }

    /// The resources of a kind, by name.
    pub(super) fn of_kind(&self, kind: ResourceKind) -> impl Iterator<Item = &[Arc<Entry>]> {
        self.entries[kind as usize].values().map(Vec::as_slice)
    }

    /// The stamps of a kind as they are now, the first of each name; none when it is not shared.
    pub(super) fn stamps(&self, kind: ResourceKind) -> Option<&Stamps> {
        self.stamps.as_ref().map(|stamps| &stamps[kind as usize])
    }

    pub(super) fn slots(&self) -> impl Iterator<Item = Slot> {
        self.entries
            .iter()
            .flat_map(HashMap::values)
            .flatten()
            .map(|entry| entry.slot())
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
        let mut same = self.get(resource.kind, &resource.name).iter();
        !same.any(|entry| entry.service == resource.service && entry.stamp.version == resource.version)
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
        removals: Vec<Slot>,
    ) -> usize {
        let mut changed = Vec::new();
        let sequence = clock.fetch_add(1, Ordering::Relaxed) + 1;
        for slot in removals {
            if self.remove(&slot) {
                changed.push(slot.key);
            }
        }
        for entry in upserts {
            changed.push(entry.key());
            self.insert(entry, sequence);
        }
        if changed.is_empty() {
            return 0;
        }
        for key in &changed {
            self.stamp(key);
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
        let group = match &entry.service {
            Some(service) => self.by_service.entry(service.clone()).or_default(),
            None => &mut self.of_no_service,
        };
        group.insert(key.clone());
        let candidates = self.entries[key.kind as usize].entry(key.name).or_default();
        entry.sequence = sequence;
        match candidates.binary_search_by(|old| old.service.cmp(&entry.service)) {
            Ok(at) => {
                entry.created = candidates[at].created;
                candidates[at] = Arc::new(entry);
            }
            Err(at) => {
                entry.created = sequence;
                candidates.insert(at, Arc::new(entry));
            }
        }
    }

    fn remove(&mut self, slot: &Slot) -> bool {
        let names = &mut self.entries[slot.key.kind as usize];
        let Some(candidates) = names.get_mut(&slot.key.name) else {
            return false;
        };
        let Ok(at) = candidates.binary_search_by(|entry| entry.service.cmp(&slot.service)) else {
            return false;
        };
        candidates.remove(at);
        if candidates.is_empty() {
            names.remove(&slot.key.name);
        }
        self.unindex(slot.service.as_ref(), &slot.key);
        true
    }

    fn stamp(&mut self, key: &Key) {
        let first = self.get(key.kind, &key.name).first();
        let stamp = first.map(|entry| entry.stamp.clone());
        let Some(stamps) = &mut self.stamps else { return };
        let stamps = &mut stamps[key.kind as usize];
        match stamp {
            Some(stamp) => stamps.insert_mut(stamp.name.clone(), stamp),
            None => {
                stamps.remove_mut(&key.name);
            }
        }
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
