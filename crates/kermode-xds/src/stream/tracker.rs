//! One kind of resource on one stream: what the client wants, what it has, what is on its way.

mod interest;

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use bytes::Bytes;
use kermode_envoy::ResourceKind;

use super::order::Gate;
use super::{Event, Rejection};
use crate::store::{Change, Entry, Stamp, View};
use crate::wire::DeltaDiscoveryRequest;

/// The name that stands for whatever the server thinks the client needs.
pub(super) const WILDCARD: &str = "*";

/// Stands for a version of which nothing is known, not even whether the client has any.
const UNSURE: &str = "";

/// What the tags and length prefixes of one resource add to a response, at most.
const OVERHEAD: usize = 8;

#[derive(Debug)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "four facts about a client, none of which excludes another"
)]
pub(super) struct Tracker {
    kind: ResourceKind,
    heard: bool,
    wildcard: bool,
    names: HashSet<Arc<str>>,
    /// What the client has, or will have when it accepts what is in flight.
    client: HashSet<Known>,
    rejected: HashMap<Arc<str>, Rejection>,
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
    early: HashSet<Arc<str>>,
}

/// A stamp, looked up by its name.
#[derive(Clone, Debug)]
struct Known(Arc<Stamp>);

#[derive(Clone, Copy, Debug)]
struct Pending {
    /// When the oldest change happened that is not sent yet.
    since: u64,
    /// When the newest change happened.
    latest: u64,
    /// To be answered even if nothing changed.
    forced: bool,
}

/// The content of a response.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// New and changed resources.
    pub(super) items: Vec<Item>,
    /// Names of removed ones.
    pub(super) removed: Vec<Arc<str>>,
    since: Option<u64>,
}

/// A new or changed resource in a response.
#[derive(Debug)]
pub(super) struct Item {
    /// What it is.
    pub(super) stamp: Arc<Stamp>,
    /// How it goes out.
    pub(super) encoded: Bytes,
    created: u64,
}

#[derive(Debug)]
struct InFlight {
    nonce: String,
    /// What goes to the client and what it had before.
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
            names: HashSet::new(),
            client: HashSet::new(),
            rejected: HashMap::new(),
            pending: BTreeMap::new(),
            compare_all: None,
            greet: false,
            retries: VecDeque::new(),
            in_flight: None,
            answered: false,
            early: HashSet::new(),
        }
    }

    pub(super) fn rejections(&self) -> impl Iterator<Item = &Rejection> {
        self.rejected.values()
    }

    pub(super) fn is_answered(&self) -> bool {
        self.answered
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

    /// Takes the answer to the response in flight. Answers to anything else are stale.
    pub(super) fn on_answer(&mut self, request: &DeltaDiscoveryRequest) -> Option<Event> {
        let in_flight = self
            .in_flight
            .take_if(|sent| sent.nonce == request.response_nonce)?;
        self.answered = true;
        let resources: Vec<_> = in_flight.items.iter().map(|(stamp, _)| stamp.clone()).collect();
        let Some(error) = &request.error_detail else {
            for stamp in &resources {
                self.rejected.remove(&stamp.name);
            }
            return Some(Event::Acknowledged {
                kind: self.kind,
                resources,
                removed: in_flight.removed,
            });
        };
        let message: Arc<str> = error.message.as_str().into();
        self.on_rejected(in_flight, &message);
        Some(Event::Rejected {
            kind: self.kind,
            resources,
            message,
        })
    }

    fn on_rejected(&mut self, mut sent: InFlight, message: &Arc<str>) {
        if sent.items.is_empty() {
            // Nothing but removals: there is no other way to say it.
            return;
        }
        if sent.items.len() == 1 && sent.removed.is_empty() {
            if let Some((stamp, before)) = sent.items.pop() {
                let before = before.unwrap_or_else(|| unsure(&stamp.name));
                self.restore(&stamp.name, before);
                let rejection = Rejection {
                    kind: self.kind,
                    stamp,
                    message: message.clone(),
                };
                self.rejected.insert(rejection.stamp.name.clone(), rejection);
            }
            return;
        }
        // Envoy may have applied any part of it. Forget the versions, and find out which part is bad.
        let mut names: Vec<Arc<str>> = sent
            .items
            .into_iter()
            .map(|(stamp, _)| stamp.name.clone())
            .collect();
        for name in &names {
            self.restore(name, unsure(name));
        }
        for name in sent
            .removed
            .iter()
            .filter(|name| self.wants(name))
            .cloned()
            .collect::<Vec<_>>()
        {
            self.client.insert(Known(unsure(&name)));
        }
        let second = names.split_off(names.len().div_ceil(2));
        for part in [second, names, sent.removed] {
            if !part.is_empty() {
                self.retries.push_front(part);
            }
        }
    }

    fn restore(&mut self, name: &Arc<str>, before: Arc<Stamp>) {
        // When the client lost interest meanwhile, it is not remembered any more, and stays so.
        if self.client.remove(&**name) {
            self.client.insert(Known(before));
        }
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
        found.extend(self.client.iter().map(|known| known.0.name.clone()));
        found.extend(self.rejected.keys().cloned());
        for name in found {
            if matches!(self.verdict(&name, false, view), Verdict::Nothing) {
                self.forget_rejection(&name, view);
            } else {
                self.enqueue(name, since, view.sequence(), false);
            }
        }
    }

    /// What to send next, if anything may be sent.
    pub(super) fn next(&mut self, view: &View<'_>, gate: &Gate, limit: usize) -> Option<Batch> {
        if !self.heard || self.in_flight.is_some() {
            return None;
        }
        let mut batch = Batch::default();
        while let Some(part) = self.retries.pop_front() {
            self.fill_retry(&mut batch, part, view, gate);
            if !batch.is_empty() {
                return Some(batch);
            }
        }
        let complete = self.fill(&mut batch, view, gate, limit);
        // When something is held back, that will be the greeting: a client that is told "nothing" goes on without.
        if batch.is_empty() && !(self.greet && complete) {
            return None;
        }
        self.greet = false;
        Some(batch)
    }

    /// Takes what may be sent out of `pending`. Returns whether everything new or changed is among it.
    fn fill(&mut self, batch: &mut Batch, view: &View<'_>, gate: &Gate, limit: usize) -> bool {
        let mut bytes = 0;
        let mut complete = true;
        let mut pending = std::mem::take(&mut self.pending);
        pending.retain(
            |name,
             Pending {
                 since,
                 latest,
                 forced,
             }| {
                if bytes >= limit {
                    complete = false;
                    return true;
                }
                match self.verdict(name, *forced, view) {
                    Verdict::Nothing => {
                        self.forget_rejection(name, view);
                        return false;
                    }
                    Verdict::Upsert(entry) => {
                        let size = entry.encoded.len() + OVERHEAD;
                        if gate.holds_upsert(entry) || (bytes > 0 && bytes + size > limit) {
                            complete = false;
                            return true;
                        }
                        bytes += size;
                        batch.upsert(entry, *since);
                    }
                    Verdict::Remove => {
                        if self.client.contains(&**name) && gate.holds_removal(name, *latest) {
                            return true;
                        }
                        bytes += name.len() + OVERHEAD;
                        batch.remove(name.clone(), *since);
                        self.forget_rejection(name, view);
                    }
                }
                false
            },
        );
        self.pending = pending;
        complete
    }

    /// Fills a response with a part of a rejected one, as far as it still has to be sent.
    fn fill_retry(&mut self, batch: &mut Batch, part: Vec<Arc<str>>, view: &View<'_>, gate: &Gate) {
        for name in part {
            let forced = self.pending.remove(&name).is_some_and(|pending| pending.forced);
            match self.verdict(&name, forced, view) {
                Verdict::Upsert(entry) if gate.holds_upsert(entry) => {
                    self.enqueue(name, 0, view.sequence(), forced);
                }
                Verdict::Upsert(entry) => batch.upsert(entry, 0),
                Verdict::Remove => self.enqueue(name, 0, view.sequence(), forced),
                Verdict::Nothing => self.forget_rejection(&name, view),
            }
        }
    }

    /// Remembers what was sent.
    pub(super) fn sent(&mut self, nonce: String, batch: Batch) {
        let mut oldest_new: Option<u64> = None;
        let mut items = Vec::with_capacity(batch.items.len());
        for Item { stamp, created, .. } in batch.items {
            let before = self.client.replace(Known(stamp.clone())).map(|known| known.0);
            if before.as_ref().is_none_or(|before| &*before.version == UNSURE) {
                oldest_new = Some(oldest_new.map_or(created, |oldest| oldest.min(created)));
            }
            items.push((stamp, before));
        }
        for name in &batch.removed {
            self.client.remove(&**name);
            self.early.remove(name);
        }
        let since = batch.since.unwrap_or(u64::MAX);
        self.in_flight = Some(InFlight {
            nonce,
            items,
            removed: batch.removed,
            oldest_new,
            since,
        });
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
        told || (self.client.contains(&**name) && self.target(name, view).is_none())
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
            .is_some_and(|known| &*known.0.version != UNSURE)
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
        let has = client.is_some_and(|known| known.0.version == entry.stamp.version);
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

// === impl Batch ===

impl Batch {
    fn is_empty(&self) -> bool {
        self.items.is_empty() && self.removed.is_empty()
    }

    fn upsert(&mut self, entry: &Entry, since: u64) {
        let (stamp, encoded, created) = (entry.stamp.clone(), entry.encoded.clone(), entry.created);
        self.items.push(Item {
            stamp,
            encoded,
            created,
        });
        self.note(since);
    }

    fn remove(&mut self, name: Arc<str>, since: u64) {
        self.removed.push(name);
        self.note(since);
    }

    fn note(&mut self, since: u64) {
        self.since = Some(self.since.map_or(since, |earlier| earlier.min(since)));
    }
}

// === impl Known ===

impl Borrow<str> for Known {
    fn borrow(&self) -> &str {
        &self.0.name
    }
}

impl Hash for Known {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.name.hash(state);
    }
}

impl PartialEq for Known {
    fn eq(&self, other: &Self) -> bool {
        self.0.name == other.0.name
    }
}

impl Eq for Known {}
