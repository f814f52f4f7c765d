//! What goes into the next response, and what it leaves to remember.

use std::sync::Arc;

use bytes::Bytes;

use super::{InFlight, Tracker, UNSURE, Verdict, unsure};
use crate::store::{Entry, Stamp, View};
use crate::stream::order::Gate;

/// What the tags and length prefixes of one resource add to a response, at most.
const OVERHEAD: usize = 8;

/// The content of a response.
#[derive(Debug, Default)]
pub(in crate::stream) struct Batch {
    /// New and changed resources.
    pub(in crate::stream) items: Vec<Item>,
    /// Names of removed ones.
    pub(in crate::stream) removed: Vec<Arc<str>>,
    since: Option<u64>,
}

/// A new or changed resource in a response.
#[derive(Debug)]
pub(in crate::stream) struct Item {
    /// What it is.
    pub(in crate::stream) stamp: Arc<Stamp>,
    /// How it goes out.
    pub(in crate::stream) encoded: Bytes,
    created: u64,
    /// The client needs it even if it has it, so what it had is of no use to it any more.
    forced: bool,
}

// === impl Tracker ===

impl Tracker {
    /// What to send next, if anything may be sent. For one that has something to send.
    pub(in crate::stream) fn next(&mut self, view: &View<'_>, gate: &Gate, limit: usize) -> Option<Batch> {
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
        pending.retain(|name, waiting| {
            if bytes >= limit {
                complete = false;
                return true;
            }
            match self.verdict(name, waiting.forced, view) {
                Verdict::Nothing => self.forget_rejection(name, view),
                Verdict::Upsert(entry) => {
                    let size = entry.encoded.len() + OVERHEAD;
                    if gate.holds_upsert(entry) || (bytes > 0 && bytes + size > limit) {
                        complete = false;
                        return true;
                    }
                    bytes += size;
                    batch.upsert(entry, waiting.since, waiting.forced);
                }
                Verdict::Remove => {
                    if self.client.contains(name) && gate.holds_removal(name, waiting.latest) {
                        return true;
                    }
                    bytes += name.len() + OVERHEAD;
                    batch.remove(name.clone(), waiting.since);
                    self.forget_rejection(name, view);
                }
            }
            false
        });
        // Not the room of an empty one: a node holds eleven names, and most of the time there is none.
        if !pending.is_empty() {
            self.pending = pending;
        }
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
                Verdict::Upsert(entry) => batch.upsert(entry, 0, forced),
                Verdict::Remove => self.enqueue(name, 0, view.sequence(), forced),
                Verdict::Nothing => self.forget_rejection(&name, view),
            }
        }
    }

    /// Remembers what was sent.
    pub(in crate::stream) fn sent(&mut self, nonce: String, batch: Batch) {
        let mut oldest_new: Option<u64> = None;
        let mut items = Vec::with_capacity(batch.items.len());
        for item in batch.items {
            let Item {
                stamp,
                created,
                forced,
                ..
            } = item;
            let before = self.client.insert(stamp.clone());
            if before.as_ref().is_none_or(|before| &*before.version == UNSURE) {
                oldest_new = Some(oldest_new.map_or(created, |oldest| oldest.min(created)));
            }
            let before = if forced { Some(unsure(&stamp.name)) } else { before };
            items.push((stamp, before));
        }
        for name in &batch.removed {
            self.client.remove(name);
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
}

// === impl Batch ===

impl Batch {
    fn is_empty(&self) -> bool {
        self.items.is_empty() && self.removed.is_empty()
    }

    fn upsert(&mut self, entry: &Entry, since: u64, forced: bool) {
        let (stamp, encoded, created) = (entry.stamp.clone(), entry.encoded.clone(), entry.created);
        self.items.push(Item {
            stamp,
            encoded,
            created,
            forced,
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
