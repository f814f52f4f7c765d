//! One scope of the store: resources, indexed by name and by service, and a bounded log of their changes.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use kermode_envoy::{OnDemand, Resource, ResourceKind};
use kermode_model::ServiceName;
use kermode_protocol::ads;
use rpds::HashTrieMapSync;

use super::profile::{Profile, ProfileChange};
use super::{Key, VersionedName};

/// A stored resource: encoded for the wire, with the sequence numbers of its publication.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Kind of the resource.
    pub kind: ResourceKind,
    /// Name and version of the resource.
    pub versioned_name: Arc<VersionedName>,
    /// Encoded [`ads::Resource`].
    pub encoded: Bytes,
    /// Service that the resource belongs to, if any.
    pub service: Option<ServiceName>,
    /// Present if the resource is on demand: sent only to a subscription by name.
    pub on_demand: Option<Box<OnDemand>>,
    /// Sequence number with which the resource was created. Later versions keep it.
    pub created: u64,
    /// Sequence number with which this version was published.
    pub sequence: u64,
}

/// Change of one name in a view: a resource of the name was published or removed, or the profile started or stopped
/// selecting or hiding resources of the name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Sequence number of the change.
    pub sequence: u64,
    /// Lower bound of the sequence number with which the resource was published. Equals `sequence` if the resource
    /// changed. 0 if the profile changed, because the resource may have been published at any time before.
    pub since: u64,
    /// Key of the resource.
    pub key: Key,
}

/// Names and versions of the resources of one kind at one moment. A persistent map: copies share their unchanged nodes,
/// so thousands of streams can each hold a copy.
pub type VersionedNames = HashTrieMapSync<Arc<str>, Arc<VersionedName>>;

/// State of a scope. Only the scope of a published proxy has a profile.
#[derive(Debug, Default)]
pub(super) struct Scope {
    /// Entries by kind and name. Services that share a Pod's port have listeners of the same name. Entries of the same
    /// name are ordered by service, and a view contains the first one that its profile selects.
    entries: [HashMap<Arc<str>, Vec<Arc<Entry>>>; ResourceKind::ALL.len()],
    /// Names and versions by kind. The version of a name is that of its first entry that is not on demand. Present only
    /// in the scope of a mesh, which many streams read.
    versioned_names: Option<[VersionedNames; ResourceKind::ALL.len()]>,
    /// Keys of the resources that belong to a service, by service.
    by_service: HashMap<ServiceName, BTreeSet<Key>>,
    /// Keys of the resources that belong to no service.
    without_service: BTreeSet<Key>,
    /// Number of entries of each kind that a stream may hold back, because they come after other resources.
    holdable_counts: [u32; ResourceKind::ALL.len()],
    profile: Option<Profile>,
    /// The newest changes, oldest first.
    log: VecDeque<LogEntry>,
    /// Sequence number of the newest change that the log does not contain.
    newest_dropped: u64,
    /// Sequence number of the newest change.
    sequence: u64,
}

/// Identity of an entry in a scope.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct EntryId {
    pub(super) key: Key,
    pub(super) service: Option<ServiceName>,
}

/// One entry of a scope's log.
#[derive(Debug)]
pub(super) struct LogEntry {
    /// Sequence number of the change.
    pub(super) sequence: u64,
    pub(super) logged: LoggedChange,
}

/// Change in the log of a scope.
#[derive(Debug)]
pub(super) enum LoggedChange {
    /// This resource was published or removed.
    Resource(Key),
    /// The profile started or stopped hiding this resource.
    HiddenResource(Key),
    /// The profile started or stopped selecting the shared resources of this service, for the view or for wildcard
    /// subscriptions.
    SelectedService(ServiceName),
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
            on_demand,
        } = resource;
        let encoded = ads::encode_resource(kind.type_url(), &name, &version, body);
        Self {
            kind,
            versioned_name: Arc::new(VersionedName { name, version }),
            encoded,
            service,
            on_demand,
            created: 0,
            sequence: 0,
        }
    }

    /// Returns the name of the resource.
    pub fn name(&self) -> &Arc<str> {
        &self.versioned_name.name
    }

    /// Returns the key of the resource.
    pub fn key(&self) -> Key {
        Key {
            kind: self.kind,
            name: self.name().clone(),
        }
    }

    /// Returns whether the resource is on demand: sent only to a subscription by name.
    pub fn is_on_demand(&self) -> bool {
        self.on_demand.is_some()
    }

    /// Returns whether a stream may hold the resource back until other resources are acknowledged.
    fn is_holdable(&self) -> bool {
        let on_demand = self.on_demand.as_ref();
        on_demand.is_some_and(|on_demand| !on_demand.after.is_empty())
    }

    fn id(&self) -> EntryId {
        EntryId {
            key: self.key(),
            service: self.service.clone(),
        }
    }
}

// === impl Scope ===

impl Scope {
    /// Creates the empty scope of a mesh.
    pub(super) fn shared() -> Self {
        Self {
            versioned_names: Some(ResourceKind::ALL.map(|_| VersionedNames::new_sync())),
            ..Self::default()
        }
    }

    /// Returns the entries of a name, ordered by service.
    pub(super) fn get(&self, kind: ResourceKind, name: &str) -> &[Arc<Entry>] {
        self.entries[kind as usize]
            .get(name)
            .map(Vec::as_slice)
            .unwrap_or_default()
    }

    /// Returns the entries of a kind, grouped by name.
    pub(super) fn of_kind(&self, kind: ResourceKind) -> impl Iterator<Item = &[Arc<Entry>]> {
        self.entries[kind as usize].values().map(Vec::as_slice)
    }

    /// Returns the current names and versions of a kind, or `None` in the scope of a proxy.
    pub(super) fn versioned_names(&self, kind: ResourceKind) -> Option<&VersionedNames> {
        self.versioned_names.as_ref().map(|names| &names[kind as usize])
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = EntryId> {
        self.entries
            .iter()
            .flat_map(HashMap::values)
            .flatten()
            .map(|entry| entry.id())
    }

    pub(super) fn ids_of(&self, key: &Key) -> impl Iterator<Item = EntryId> {
        self.get(key.kind, &key.name).iter().map(|entry| entry.id())
    }

    /// Returns the keys of the resources that belong to a service; `None` stands for the resources that belong to no
    /// service.
    pub(super) fn keys_of(&self, service: Option<&ServiceName>) -> impl Iterator<Item = &Key> {
        let group = match service {
            Some(service) => self.by_service.get(service),
            None => Some(&self.without_service),
        };
        group.into_iter().flatten()
    }

    /// Returns whether a stream may hold back any entry of this kind.
    pub(super) fn has_holdable(&self, kind: ResourceKind) -> bool {
        self.holdable_counts[kind as usize] > 0
    }

    pub(super) fn profile(&self) -> Option<&Profile> {
        self.profile.as_ref()
    }

    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Returns whether storing the resource would change the scope.
    pub(super) fn differs(&self, resource: &Resource) -> bool {
        let mut candidates = self.get(resource.kind, &resource.name).iter();
        !candidates.any(|entry| {
            entry.service == resource.service
                && entry.versioned_name.version == resource.version
                && entry.on_demand == resource.on_demand
        })
    }

    /// Returns the log entries after a sequence number, oldest first, or `None` if the log does not reach back that
    /// far.
    pub(super) fn log_since(&self, cursor: u64) -> Option<impl Iterator<Item = &LogEntry>> {
        let first_unread = self.log.partition_point(|entry| entry.sequence <= cursor);
        (cursor >= self.newest_dropped).then(|| self.log.range(first_unread..))
    }

    /// Applies upserts and removals under one sequence number, the next one of `counter`. Returns the number of
    /// resources that changed.
    pub(super) fn apply(
        &mut self,
        counter: &AtomicU64,
        log_capacity: usize,
        upserts: Vec<Entry>,
        removals: Vec<EntryId>,
    ) -> usize {
        let mut changed = Vec::new();
        let sequence = counter.fetch_add(1, Ordering::Relaxed) + 1;
        for id in removals {
            if self.remove(&id) {
                changed.push(id.key);
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
            self.update_versioned_name(key);
        }
        let count = changed.len();
        self.append_log(
            sequence,
            log_capacity,
            changed.into_iter().map(LoggedChange::Resource),
        );
        count
    }

    /// Sets the profile and logs the resources that the change concerns. If the change may concern any resource, clears
    /// the log instead, so that the streams of the proxy compare all names. Returns whether the profile changed.
    pub(super) fn set_profile(
        &mut self,
        counter: &AtomicU64,
        log_capacity: usize,
        profile: Option<Profile>,
    ) -> bool {
        if self.profile == profile {
            return false;
        }
        let change = match (&self.profile, &profile) {
            (Some(before), Some(after)) => before.difference(after),
            _ => ProfileChange::AnyResource,
        };
        self.profile = profile;
        let sequence = counter.fetch_add(1, Ordering::Relaxed) + 1;
        match change {
            ProfileChange::AnyResource => {
                self.sequence = sequence;
                self.newest_dropped = sequence;
                self.log.clear();
            }
            ProfileChange::Resources { services, keys } => {
                let services = services.into_iter().map(LoggedChange::SelectedService);
                let keys = keys.into_iter().map(LoggedChange::HiddenResource);
                self.append_log(sequence, log_capacity, services.chain(keys));
            }
        }
        true
    }

    fn append_log(&mut self, sequence: u64, capacity: usize, logged: impl Iterator<Item = LoggedChange>) {
        self.sequence = sequence;
        self.log
            .extend(logged.map(|logged| LogEntry { sequence, logged }));
        while self.log.len() > capacity {
            if let Some(dropped) = self.log.pop_front() {
                self.newest_dropped = dropped.sequence;
            }
        }
    }

    /// Adds an entry, or replaces the entry with the same identity.
    fn insert(&mut self, mut entry: Entry, sequence: u64) {
        let key = entry.key();
        let group = match &entry.service {
            Some(service) => self.by_service.entry(service.clone()).or_default(),
            None => &mut self.without_service,
        };
        group.insert(key.clone());
        self.holdable_counts[key.kind as usize] += u32::from(entry.is_holdable());
        let candidates = self.entries[key.kind as usize].entry(key.name).or_default();
        entry.sequence = sequence;
        match candidates.binary_search_by(|old| old.service.cmp(&entry.service)) {
            Ok(at) => {
                let replaced = &candidates[at];
                self.holdable_counts[key.kind as usize] -= u32::from(replaced.is_holdable());
                entry.created = replaced.created;
                candidates[at] = Arc::new(entry);
            }
            Err(at) => {
                entry.created = sequence;
                candidates.insert(at, Arc::new(entry));
            }
        }
    }

    /// Removes an entry. Returns whether the scope contained the entry.
    fn remove(&mut self, id: &EntryId) -> bool {
        let names = &mut self.entries[id.key.kind as usize];
        let Some(candidates) = names.get_mut(&id.key.name) else {
            return false;
        };
        let Ok(at) = candidates.binary_search_by(|entry| entry.service.cmp(&id.service)) else {
            return false;
        };
        let removed = candidates.remove(at);
        self.holdable_counts[id.key.kind as usize] -= u32::from(removed.is_holdable());
        if candidates.is_empty() {
            names.remove(&id.key.name);
        }
        self.remove_key_from_group(id.service.as_ref(), &id.key);
        true
    }

    /// Updates the name and version of a key in `versioned_names` after a change of the key's entries.
    fn update_versioned_name(&mut self, key: &Key) {
        let mut candidates = self.get(key.kind, &key.name).iter();
        let first = candidates.find(|entry| !entry.is_on_demand());
        let first = first.map(|entry| entry.versioned_name.clone());
        let Some(names) = &mut self.versioned_names else {
            return;
        };
        let names = &mut names[key.kind as usize];
        match first {
            Some(first) => names.insert_mut(first.name.clone(), first),
            None => {
                names.remove_mut(&key.name);
            }
        }
    }

    fn remove_key_from_group(&mut self, service: Option<&ServiceName>, key: &Key) {
        let Some(service) = service else {
            self.without_service.remove(key);
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
