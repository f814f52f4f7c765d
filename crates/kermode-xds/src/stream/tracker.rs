//! Tracker: state of one resource kind on one stream. Holds the subscriptions of the client, the versions that the
//! client has, and the names that are pending or in flight.

mod acknowledgement;
mod overlay;
mod sending;
mod subscription;

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::sync::Arc;

use kermode_envoy::ResourceKind;

use super::Rejection;
use crate::store::{Change, Entry, VersionedName, View};
use overlay::Overlay;
pub(super) use sending::ResponseContent;

/// Name of the wildcard subscription.
pub(super) const WILDCARD: &str = "*";

/// Version that is recorded while the client's version of a resource is unknown: the client may have any version of the
/// resource, or none. Differs from every published version.
const UNKNOWN_VERSION: &str = "";

/// Lower bound of the sequence numbers of changes, if no higher bound is known.
const UNKNOWN_SINCE: u64 = 0;

/// Value of [`Pending::latest`] for a name that has no unsent change.
const NO_CHANGE: u64 = 0;

/// State of one resource kind on one stream.
#[derive(Debug)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "four independent facts about a client; any combination occurs"
)]
pub(super) struct Tracker {
    kind: ResourceKind,
    /// Whether the client has requested this kind on this stream.
    is_requested: bool,
    /// Whether the client has a wildcard subscription.
    has_wildcard: bool,
    /// Names that the client subscribed to explicitly.
    explicit_names: Overlay<Arc<str>>,
    /// Explicit names that had no resource and no tombstone when the client subscribed to them beside a wildcard.
    names_without_resource: HashSet<Arc<str>>,
    /// Versions that the client has, or will have after an ACK of the response in flight.
    client_versions: Overlay<Arc<VersionedName>>,
    /// Resources that the client rejected and that have not changed since, by name.
    rejected: BTreeMap<Arc<str>, Rejection>,
    /// Names that may have to be sent. Compared with the client's versions when a response is composed.
    pending: BTreeMap<Arc<str>, Pending>,
    /// Present if all names have to be compared: a lower bound of the sequence numbers of the unknown changes.
    compare_all_since: Option<u64>,
    /// Whether the client waits for a response, even for an empty one.
    is_response_due: bool,
    /// Parts of rejected responses that are sent again. A part is a list of names.
    retries: VecDeque<Vec<Arc<str>>>,
    in_flight: Option<InFlight>,
    /// Whether the client ever ACKed or NACKed a response.
    has_ack_or_nack: bool,
    /// Clusters that were sent before the client first requested endpoints. Used only in the tracker of clusters.
    sent_before_endpoints: BTreeSet<Arc<str>>,
}

/// Changes of one resource that may have to be sent.
#[derive(Clone, Copy, Debug)]
struct Pending {
    /// Lower bound of the sequence numbers of the unsent changes, or [`UNKNOWN_SINCE`].
    since: u64,
    /// Sequence number of the newest change, or [`NO_CHANGE`].
    latest: u64,
    /// Whether to send the resource, or its removal, even if the client has the target version.
    is_forced: bool,
}

/// The response that the client has not ACKed or NACKed yet.
#[derive(Debug)]
struct InFlight {
    nonce: String,
    /// Resources of the response, each with the version that the client keeps after a NACK; `None` if the client had no
    /// version before.
    items: Vec<(Arc<VersionedName>, Option<Arc<VersionedName>>)>,
    /// Names of the removed resources.
    removed: Vec<Arc<str>>,
    /// Names of the items that are tombstones.
    tombstones: Vec<Arc<str>>,
    /// Sequence number with which the oldest resource that is new to the client was created.
    oldest_new: Option<u64>,
    /// Sequence number of the oldest change; `u64::MAX` if the response contains no change.
    since: u64,
}

/// Resource that the client should have for a name.
enum Target<'a> {
    /// A resource of the store.
    Stored(&'a Arc<Entry>),
    /// A tombstone, because the store has no resource of the name.
    Tombstone(Box<Entry>),
}

/// Change that has to be sent for a name.
enum Action<'a> {
    /// No change.
    None,
    /// Send this resource.
    Upsert(&'a Arc<Entry>),
    /// Send this tombstone, in place of the resource that the client may have.
    Tombstone(Box<Entry>),
    /// Remove the resource.
    Remove,
}

// === impl Target ===

impl Target<'_> {
    fn version(&self) -> &Arc<str> {
        match self {
            Target::Stored(entry) => &entry.versioned_name.version,
            Target::Tombstone(entry) => &entry.versioned_name.version,
        }
    }
}

// === impl Tracker ===

impl Tracker {
    pub(super) fn new(kind: ResourceKind) -> Self {
        Self {
            kind,
            is_requested: false,
            has_wildcard: false,
            explicit_names: Overlay::new(),
            names_without_resource: HashSet::new(),
            client_versions: Overlay::new(),
            rejected: BTreeMap::new(),
            pending: BTreeMap::new(),
            compare_all_since: None,
            is_response_due: false,
            retries: VecDeque::new(),
            in_flight: None,
            has_ack_or_nack: false,
            sent_before_endpoints: BTreeSet::new(),
        }
    }

    pub(super) fn rejections(&self) -> impl Iterator<Item = &Rejection> {
        self.rejected.values()
    }

    pub(super) fn rejected_count(&self) -> usize {
        self.rejected.len()
    }

    /// Returns whether the client ever ACKed or NACKed a response of this kind.
    pub(super) fn has_ack_or_nack(&self) -> bool {
        self.has_ack_or_nack
    }

    pub(super) fn is_in_flight(&self) -> bool {
        self.in_flight.is_some()
    }

    pub(super) fn pending_names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.pending.keys()
    }

    /// Returns the new and changed resources that are pending, and the resources of rejected responses that are sent
    /// again.
    pub(super) fn pending_upserts<'a>(&self, view: &View<'a>) -> impl Iterator<Item = &'a Arc<Entry>> {
        let pending = self
            .pending
            .iter()
            .map(|(name, pending)| (name, pending.is_forced));
        let retried = self.retries.iter().flatten().map(|name| (name, false));
        pending
            .chain(retried)
            .filter_map(|(name, is_forced)| match self.action(name, is_forced, view) {
                Action::Upsert(entry) => Some(entry),
                Action::None | Action::Tombstone(_) | Action::Remove => None,
            })
    }

    /// Returns whether the response in flight contains a resource.
    pub(super) fn is_resource_in_flight(&self, name: &str) -> bool {
        let mut items = self.in_flight.iter().flat_map(|sent| &sent.items);
        items.any(|(resource, _)| &*resource.name == name)
    }

    /// Returns whether nothing is in flight, pending or to be compared, and no response is due.
    pub(super) fn is_settled(&self) -> bool {
        self.in_flight.is_none()
            && self.pending.is_empty()
            && self.retries.is_empty()
            && self.compare_all_since.is_none()
            && !self.is_response_due
    }

    /// Rebases the names and versions of the client, which are stored as differences ([`Overlay`]), onto the current
    /// names and versions of the mesh. `changes` are the changes since the last view. Keeps memory use low between
    /// calls of [`Tracker::compact`].
    pub(super) fn rebase<'a>(&mut self, changes: impl Iterator<Item = &'a Change> + Clone, view: &View<'_>) {
        let (shared, sequences) = (view.shared_versioned_names(self.kind), view.shared_sequences());
        let names = changes
            .filter(|change| change.key.kind == self.kind)
            .map(|change| &change.key.name);
        self.client_versions.rebase(shared, sequences, names.clone());
        self.explicit_names.rebase(shared, sequences, names);
    }

    /// Reduces memory use, if the tracker is settled.
    pub(super) fn compact(&mut self, view: &View<'_>) {
        if self.is_settled() {
            let (shared, (_, sequence)) = (view.shared_versioned_names(self.kind), view.shared_sequences());
            self.client_versions.compact(shared, sequence);
            self.explicit_names.compact(shared, sequence);
        }
    }

    /// Returns whether no response can be sent: the kind is not requested, a response is in flight, or nothing is
    /// pending.
    pub(super) fn has_nothing_to_send(&self) -> bool {
        !self.is_requested
            || self.in_flight.is_some()
            || (self.pending.is_empty() && self.retries.is_empty() && !self.is_response_due)
    }

    /// Records a change of a resource. Above `limit` pending names, records instead that all names have to be compared.
    pub(super) fn on_change(&mut self, change: Change, limit: usize) {
        if !self.is_subscribed_to(&change.key.name) {
            return;
        }
        self.enqueue(change.key.name, change.since, change.sequence, false);
        if self.pending.len() > limit {
            let since = self.pending.values().map(|pending| pending.since).min();
            self.pending.retain(|_, pending| pending.is_forced);
            self.compare_all(since.unwrap_or(UNKNOWN_SINCE));
        }
    }

    /// Records that any resource may have changed, at any time.
    pub(super) fn on_unknown_changes(&mut self) {
        self.client_versions.stop_rebasing();
        self.explicit_names.stop_rebasing();
        self.compare_all(UNKNOWN_SINCE);
    }

    /// Records that any resource may have changed with this sequence number or a later one.
    pub(super) fn compare_all(&mut self, since: u64) {
        if !self.is_requested {
            return;
        }
        self.compare_all_since = Some(self.compare_all_since.map_or(since, |earlier| earlier.min(since)));
    }

    /// If all names have to be compared and a response can be sent, enqueues the names whose version differs from the
    /// client's.
    pub(super) fn enqueue_differences(&mut self, view: &View<'_>) {
        if !self.is_requested || self.in_flight.is_some() {
            return;
        }
        let Some(since) = self.compare_all_since.take() else {
            return;
        };
        let mut names: Vec<Arc<str>> = Vec::new();
        if self.has_wildcard {
            names.extend(view.wildcard(self.kind).map(|entry| entry.name().clone()));
        }
        names.extend(self.explicit_names.iter().cloned());
        names.extend(self.client_versions.iter().map(|resource| resource.name.clone()));
        names.extend(self.rejected.keys().cloned());
        for name in names {
            if matches!(self.action(&name, false, view), Action::None) {
                self.drop_stale_rejection(&name, view);
            } else {
                self.enqueue(name, since, view.sequence(), false);
            }
        }
    }

    /// Returns a lower bound of [`Entry::created`] of the resources that the client should have and does not have;
    /// `None` if the client has all of them. On-demand resources do not count, because listeners and routes do not
    /// refer to them.
    pub(super) fn oldest_missing(&self, view: &View<'_>) -> Option<u64> {
        let sent = self.in_flight.as_ref().and_then(|sent| sent.oldest_new);
        let names = self.pending.keys().chain(self.retries.iter().flatten());
        let missing = names
            .filter(|name| !self.has_known_version(name))
            .filter_map(|name| match self.action(name, false, view) {
                Action::Upsert(entry) if !entry.is_on_demand() => Some(entry.created),
                _ => None,
            });
        sent.into_iter()
            .chain(missing)
            .chain(self.compare_all_since)
            .min()
    }

    /// Returns a lower bound of the sequence numbers of the changes that the client has not acknowledged; `None` if the
    /// client has acknowledged all changes.
    pub(super) fn oldest_change(&self, view: &View<'_>) -> Option<u64> {
        let sent = self.in_flight.as_ref().map(|sent| sent.since);
        let pending = self
            .pending
            .iter()
            .filter(|(name, pending)| !matches!(self.action(name, pending.is_forced, view), Action::None));
        // The sequence numbers of the changes in rejected responses are not stored.
        let retried = if self.retries.is_empty() {
            None
        } else {
            Some(UNKNOWN_SINCE)
        };
        sent.into_iter()
            .chain(pending.map(|(_, pending)| pending.since))
            .chain(retried)
            .chain(self.compare_all_since)
            .min()
    }

    /// Returns whether the removal of a resource that the client has is pending or in flight. Replacement by a
    /// tombstone counts as removal.
    pub(super) fn is_losing(&self, name: &Arc<str>, view: &View<'_>) -> bool {
        let is_removal_in_flight = self
            .in_flight
            .as_ref()
            .is_some_and(|sent| sent.removed.contains(name) || sent.tombstones.contains(name));
        let is_removal_pending = |client_version: &Arc<VersionedName>| match self.target(name, view) {
            None => true,
            Some(Target::Tombstone(tombstone)) => client_version.version != tombstone.versioned_name.version,
            Some(Target::Stored(_)) => false,
        };
        is_removal_in_flight || self.client_versions.get(name).is_some_and(is_removal_pending)
    }

    /// Returns whether a resource is visible to the proxy, and the client has not ACKed, NACKed or reported any version
    /// of it. A tombstone does not count as a version.
    pub(super) fn is_awaited(&self, name: &Arc<str>, view: &View<'_>) -> bool {
        if self.rejected.contains_key(name) || view.get(self.kind, name).is_none() {
            return false;
        }
        let is_new_in_flight = self.in_flight.as_ref().is_some_and(|sent| {
            let mut items = sent.items.iter();
            items.any(|(item, before)| item.name == *name && !before.as_ref().is_some_and(is_version_known))
        });
        !self.has_known_version(name) || is_new_in_flight || self.has_tombstone(name, view)
    }

    /// Returns whether the client's version of a name is that of the tombstone.
    fn has_tombstone(&self, name: &Arc<str>, view: &View<'_>) -> bool {
        let Some(client_version) = self
            .client_versions
            .get(name)
            .filter(|_| self.explicit_names.contains(name))
        else {
            return false;
        };
        let tombstone = view.tombstone(self.kind, name);
        tombstone.is_some_and(|tombstone| tombstone.versioned_name.version == client_version.version)
    }

    /// Enqueues a name although no change of its resource is known.
    fn enqueue_unchanged(&mut self, name: Arc<str>, is_forced: bool) {
        self.enqueue(name, UNKNOWN_SINCE, NO_CHANGE, is_forced);
    }

    /// Enqueues a name. The arguments are the fields of [`Pending`].
    fn enqueue(&mut self, name: Arc<str>, since: u64, latest: u64, is_forced: bool) {
        let pending = self.pending.entry(name).or_insert(Pending {
            since,
            latest,
            is_forced,
        });
        pending.since = pending.since.min(since);
        pending.latest = pending.latest.max(latest);
        pending.is_forced |= is_forced;
    }

    fn has_known_version(&self, name: &str) -> bool {
        self.client_versions.get(name).is_some_and(is_version_known)
    }

    fn is_subscribed_to(&self, name: &str) -> bool {
        self.has_wildcard || self.explicit_names.contains(name)
    }

    /// Returns what the client should have for a name; `None` if the client should have nothing.
    fn target<'a>(&self, name: &str, view: &View<'a>) -> Option<Target<'a>> {
        // Avoids hashing the name in the most common case, a wildcard subscription without explicit names.
        let explicit = (self.explicit_names.len() > 0)
            .then(|| self.explicit_names.get(name))
            .flatten();
        match explicit {
            Some(name) => {
                let stored = view.get(self.kind, name).map(Target::Stored);
                stored.or_else(|| Some(Target::Tombstone(view.tombstone(self.kind, name)?.into())))
            }
            None if self.has_wildcard => view.get_by_wildcard(self.kind, name).map(Target::Stored),
            None => None,
        }
    }

    /// Returns the change that has to be sent for a name. `is_forced` is the field of [`Pending`].
    fn action<'a>(&self, name: &str, is_forced: bool, view: &View<'a>) -> Action<'a> {
        let client_version = self.client_versions.get(name);
        let Some(target) = self.target(name, view) else {
            let has_to_be_removed = client_version.is_some() || (is_forced && self.is_subscribed_to(name));
            return if has_to_be_removed {
                Action::Remove
            } else {
                Action::None
            };
        };
        let is_up_to_date = || client_version.is_some_and(|resource| resource.version == *target.version());
        let is_rejected = || {
            self.rejected
                .get(name)
                .is_some_and(|rejection| rejection.resource.version == *target.version())
        };
        if !is_forced && (is_up_to_date() || is_rejected()) {
            return Action::None;
        }
        match target {
            Target::Stored(entry) => Action::Upsert(entry),
            Target::Tombstone(entry) => Action::Tombstone(entry),
        }
    }

    /// Drops the rejection of a resource that was removed or has another version now.
    fn drop_stale_rejection(&mut self, name: &str, view: &View<'_>) {
        let Some(rejection) = self.rejected.get(name) else {
            return;
        };
        let target = self.target(name, view);
        if target.is_none_or(|target| *target.version() != rejection.resource.version) {
            self.rejected.remove(name);
        }
    }
}

fn is_version_known(resource: &Arc<VersionedName>) -> bool {
    &*resource.version != UNKNOWN_VERSION
}

fn unknown_version(name: &Arc<str>) -> Arc<VersionedName> {
    Arc::new(VersionedName {
        name: name.clone(),
        version: UNKNOWN_VERSION.into(),
    })
}
