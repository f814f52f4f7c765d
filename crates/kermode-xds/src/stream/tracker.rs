//! One kind of resource on one stream: what the client wants, what it has, what is on its way.

mod answer;
mod interest;
mod overlay;
mod sending;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use kermode_envoy::ResourceKind;

use super::Rejection;
use crate::store::{Change, Entry, Stamp, View};
use overlay::Overlay;
pub(super) use sending::Batch;

/// The name that stands for whatever the server thinks the client needs.
pub(super) const WILDCARD: &str = "*";

/// Stands for a version of which nothing is known, not even whether the client has any.
const UNSURE: &str = "";

#[derive(Debug)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "four facts about a client, none of which excludes another"
)]
pub(super) struct Tracker {
    kind: ResourceKind,
    heard: bool,
    wildcard: bool,
    /// What the client asks for by name.
    names: Overlay<Arc<str>>,
    /// What the client has, or will have when it accepts what is in flight.
    client: Overlay<Arc<Stamp>>,
    rejected: BTreeMap<Arc<str>, Rejection>,
    /// Names to look at. Whether there is anything to send is decided when it is their turn.
    pending: BTreeMap<Arc<str>, Pending>,
    /// Set when everything has to be looked at; since when.
    compare_all: Option<u64>,
    /// The client waits for an answer even if there is nothing to say.
    greet: bool,
    /// Parts of rejected responses.
    retries: VecDeque<Vec<Arc<str>>>,
    in_flight: Option<InFlight>,
    /// Whether the client ever answered.
    answered: bool,
    /// Clusters that were sent before the client first asked for endpoints.
    early: BTreeSet<Arc<str>>,
}

#[derive(Clone, Copy, Debug)]
struct Pending {
    /// When the oldest change happened that is not sent yet.
    since: u64,
    /// When the newest change happened.
    latest: u64,
    /// To be answered even if nothing changed.
    forced: bool,
}

#[derive(Debug)]
struct InFlight {
    nonce: String,
    /// What goes to the client and what it has if it refuses that.
    items: Vec<(Arc<Stamp>, Option<Arc<Stamp>>)>,
    removed: Vec<Arc<str>>,
    /// When the oldest of the resources that are new to the client was created.
    oldest_new: Option<u64>,
    /// When the oldest of its changes happened.
    since: u64,
}

enum Verdict<'a> {
    Nothing,
    Upsert(&'a Arc<Entry>),
    Remove,
}

// === impl Tracker ===

impl Tracker {
    pub(super) fn new(kind: ResourceKind) -> Self {
        Self {
            kind,
            heard: false,
            wildcard: false,
            names: Overlay::new(),
            client: Overlay::new(),
            rejected: BTreeMap::new(),
            pending: BTreeMap::new(),
            compare_all: None,
            greet: false,
            retries: VecDeque::new(),
            in_flight: None,
            answered: false,
            early: BTreeSet::new(),
        }
    }

    pub(super) fn rejections(&self) -> impl Iterator<Item = &Rejection> {
        self.rejected.values()
    }

    pub(super) fn refused(&self) -> usize {
        self.rejected.len()
    }

    pub(super) fn is_answered(&self) -> bool {
        self.answered
    }

    pub(super) fn awaits_answer(&self) -> bool {
        self.in_flight.is_some()
    }

    pub(super) fn pending_names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.pending.keys()
    }

    pub(super) fn is_settled(&self) -> bool {
        self.in_flight.is_none()
            && self.pending.is_empty()
            && self.retries.is_empty()
            && self.compare_all.is_none()
            && !self.greet
    }

    /// Keeps memory down, as far as that costs little: what the mesh shares was read on, with these changes.
    pub(super) fn follow<'a>(&mut self, changes: impl Iterator<Item = &'a Change> + Clone, view: &View<'_>) {
        let (later, sequences) = (view.shared(self.kind), view.shared_sequences());
        let names = changes
            .filter(|change| change.key.kind == self.kind)
            .map(|change| &change.key.name);
        self.client.follow(later, sequences, names.clone());
        self.names.follow(later, sequences, names);
    }

    /// Keeps memory down for good, once the client has what it is to have.
    pub(super) fn settle(&mut self, view: &View<'_>) {
        if self.is_settled() {
            let (shared, (_, now)) = (view.shared(self.kind), view.shared_sequences());
            self.client.settle(shared, now);
            self.names.settle(shared, now);
        }
    }

    /// Whether there is nothing to decide: nobody asked, an answer is awaited, or nothing is left to look at.
    pub(super) fn has_nothing_to_send(&self) -> bool {
        !self.heard
            || self.in_flight.is_some()
            || (self.pending.is_empty() && self.retries.is_empty() && !self.greet)
    }

    /// Notes that something changed.
    pub(super) fn note(&mut self, change: Change, limit: usize) {
        if !self.wants(&change.key.name) {
            return;
        }
        self.enqueue(change.key.name, change.sequence, change.sequence, false);
        if self.pending.len() > limit {
            let since = self
                .pending
                .values()
                .map(|pending| pending.since)
                .min()
                .unwrap_or_default();
            self.pending.retain(|_, pending| pending.forced);
            self.compare_all(since);
        }
    }

    /// Notes that nothing is known of what changed, nor since when.
    pub(super) fn compare_everything(&mut self) {
        self.client.lose_track();
        self.names.lose_track();
        self.compare_all(0);
    }

    /// Notes that anything may have changed since then.
    pub(super) fn compare_all(&mut self, since: u64) {
        if !self.heard {
            return;
        }
        self.compare_all = Some(self.compare_all.map_or(since, |earlier| earlier.min(since)));
    }

    /// Turns "anything may have changed" into names, once their number is needed.
    pub(super) fn expand(&mut self, view: &View<'_>) {
        if !self.heard || self.in_flight.is_some() {
            return;
        }
        let Some(since) = self.compare_all.take() else {
            return;
        };
        let mut found: Vec<Arc<str>> = Vec::new();
        if self.wildcard {
            found.extend(view.wildcard(self.kind).map(|entry| entry.stamp.name.clone()));
        }
        found.extend(self.names.iter().cloned());
        found.extend(self.client.iter().map(|stamp| stamp.name.clone()));
        found.extend(self.rejected.keys().cloned());
        for name in found {
            if matches!(self.verdict(&name, false, view), Verdict::Nothing) {
                self.forget_rejection(&name, view);
            } else {
                self.enqueue(name, since, view.sequence(), false);
            }
        }
    }

    /// When the oldest resource was created that the client should have and does not have yet.
    pub(super) fn oldest_missing(&self, view: &View<'_>) -> Option<u64> {
        let sent = self.in_flight.as_ref().and_then(|sent| sent.oldest_new);
        let names = self.pending.keys().chain(self.retries.iter().flatten());
        let missing = names.filter(|name| !self.surely_has(name)).filter_map(|name| {
            match self.verdict(name, false, view) {
                Verdict::Upsert(entry) => Some(entry.created),
                Verdict::Nothing | Verdict::Remove => None,
            }
        });
        sent.into_iter().chain(missing).chain(self.compare_all).min()
    }

    /// When the oldest change happened that the client has not confirmed.
    pub(super) fn oldest_change(&self, view: &View<'_>) -> Option<u64> {
        let sent = self.in_flight.as_ref().map(|sent| sent.since);
        let pending = self
            .pending
            .iter()
            .filter(|(name, pending)| !matches!(self.verdict(name, pending.forced, view), Verdict::Nothing));
        let retried = if self.retries.is_empty() { None } else { Some(0) };
        sent.into_iter()
            .chain(pending.map(|(_, pending)| pending.since))
            .chain(retried)
            .chain(self.compare_all)
            .min()
    }

    /// Whether the client still has it although it should not, or was just told to drop it.
    pub(super) fn is_losing(&self, name: &Arc<str>, view: &View<'_>) -> bool {
        let told = self
            .in_flight
            .as_ref()
            .is_some_and(|sent| sent.removed.contains(name));
        told || (self.client.contains(name) && self.target(name, view).is_none())
    }

    fn enqueue(&mut self, name: Arc<str>, since: u64, latest: u64, forced: bool) {
        let pending = self.pending.entry(name).or_insert(Pending {
            since,
            latest,
            forced,
        });
        pending.since = pending.since.min(since);
        pending.latest = pending.latest.max(latest);
        pending.forced |= forced;
    }

    fn surely_has(&self, name: &str) -> bool {
        self.client
            .get(name)
            .is_some_and(|stamp| &*stamp.version != UNSURE)
    }

    fn wants(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    fn target<'a>(&self, name: &str, view: &View<'a>) -> Option<&'a Arc<Entry>> {
        if self.wants(name) {
            view.get(self.kind, name)
        } else {
            None
        }
    }

    fn verdict<'a>(&self, name: &str, forced: bool, view: &View<'a>) -> Verdict<'a> {
        let client = self.client.get(name);
        let Some(entry) = self.target(name, view) else {
            let tell = client.is_some() || (forced && self.wants(name));
            return if tell { Verdict::Remove } else { Verdict::Nothing };
        };
        let has = client.is_some_and(|stamp| stamp.version == entry.stamp.version);
        let refused = || {
            self.rejected
                .get(name)
                .is_some_and(|rejection| rejection.stamp.version == entry.stamp.version)
        };
        if !forced && (has || refused()) {
            Verdict::Nothing
        } else {
            Verdict::Upsert(entry)
        }
    }

    /// A resource that is gone, or back at what the client has, is not a rejected one any more.
    fn forget_rejection(&mut self, name: &str, view: &View<'_>) {
        if self.rejected.is_empty() {
            return;
        }
        let current = self.target(name, view).map(|entry| &entry.stamp.version);
        if self
            .rejected
            .get(name)
            .is_some_and(|rejection| current != Some(&rejection.stamp.version))
        {
            self.rejected.remove(name);
        }
    }
}

fn unsure(name: &Arc<str>) -> Arc<Stamp> {
    Arc::new(Stamp {
        name: name.clone(),
        version: UNSURE.into(),
    })
}
