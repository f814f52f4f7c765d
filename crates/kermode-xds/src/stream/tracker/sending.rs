//! Composes the next response, and records the response in flight.

use std::sync::Arc;

use bytes::Bytes;

use super::{Action, InFlight, Tracker, UNKNOWN_SINCE, is_version_known, unknown_version};
use crate::store::{Entry, VersionedName, View};
use crate::stream::hold::Holds;
use crate::stream::order::DelayedChanges;

/// Upper bound, in bytes, of the tags and length prefixes that one resource adds to a response.
const RESOURCE_OVERHEAD: usize = 8;

/// Content of a response.
#[derive(Debug, Default)]
pub(in crate::stream) struct ResponseContent {
    /// New and changed resources.
    pub(in crate::stream) items: Vec<Item>,
    /// Names of removed resources.
    pub(in crate::stream) removed: Vec<Arc<str>>,
    /// Lower bound of the sequence numbers of the changes. `None` if there are no changes.
    since: Option<u64>,
}

/// A new or changed resource in a response.
#[derive(Debug)]
pub(in crate::stream) struct Item {
    /// Name and version of the resource.
    pub(in crate::stream) resource: Arc<VersionedName>,
    /// Encoded resource.
    pub(in crate::stream) encoded: Bytes,
    /// Whether the resource is a tombstone.
    pub(in crate::stream) is_tombstone: bool,
    /// Sequence number with which the resource was created. `None` for on-demand resources and tombstones, to which no
    /// listener refers.
    created: Option<u64>,
    /// Whether the resource is sent even if the client has this version. After a NACK of such a resource, the version
    /// that the client has is unknown.
    is_forced: bool,
}

// === impl Tracker ===

impl Tracker {
    /// Returns the content of the next response, or `None` if all pending changes have to wait. Must not be called if
    /// [`Tracker::has_nothing_to_send`] returns true.
    ///
    /// `limit` is the maximum size of the response in bytes. A single resource may exceed the limit. The limit does not
    /// apply to a retry.
    pub(in crate::stream) fn next_content(
        &mut self,
        view: &View<'_>,
        delayed: &DelayedChanges,
        holds: &Holds,
        limit: usize,
    ) -> Option<ResponseContent> {
        let mut content = ResponseContent::default();
        while let Some(part) = self.retries.pop_front() {
            self.fill_retry(&mut content, part, view, delayed, holds);
            if !content.is_empty() {
                return Some(content);
            }
        }
        let is_complete = self.fill(&mut content, view, delayed, holds, limit);
        // An empty first response makes Envoy continue without resources. If resources are delayed, the first response
        // waits for them.
        if content.is_empty() && !(self.is_response_due && is_complete) {
            return None;
        }
        self.is_response_due = false;
        Some(content)
    }

    /// Moves the pending resources that may be sent into `content`. Returns whether `content` then contains all pending
    /// new and changed resources, apart from held ones.
    fn fill(
        &mut self,
        content: &mut ResponseContent,
        view: &View<'_>,
        delayed: &DelayedChanges,
        holds: &Holds,
        limit: usize,
    ) -> bool {
        let mut bytes = 0;
        let mut is_complete = true;
        let mut pending = std::mem::take(&mut self.pending);
        pending.retain(|name, change| {
            if bytes >= limit {
                is_complete = false;
                return true;
            }
            let exceeds_limit = |bytes: usize, entry: &Entry| bytes > 0 && bytes + size(entry) > limit;
            match self.action(name, change.is_forced, view) {
                Action::None => self.drop_stale_rejection(name, view),
                Action::Upsert(_) if holds.is_held(self.kind, name) => return true,
                Action::Upsert(entry) => {
                    if delayed.contains_upsert(entry) || exceeds_limit(bytes, entry) {
                        is_complete = false;
                        return true;
                    }
                    bytes += size(entry);
                    content.push_upsert(entry, change.since, change.is_forced);
                }
                Action::Tombstone(entry) => {
                    if self.client_versions.contains(name) && delayed.contains_removal(name, change.latest) {
                        return true;
                    }
                    if delayed.contains_upsert(&entry) || exceeds_limit(bytes, &entry) {
                        is_complete = false;
                        return true;
                    }
                    bytes += size(&entry);
                    content.push_tombstone(*entry, change.since, change.is_forced);
                }
                Action::Remove => {
                    if self.client_versions.contains(name) && delayed.contains_removal(name, change.latest) {
                        return true;
                    }
                    bytes += name.len() + RESOURCE_OVERHEAD;
                    content.push_removal(name.clone(), change.since);
                    self.drop_stale_rejection(name, view);
                }
            }
            false
        });
        // An empty map is dropped, because it may still own memory.
        if !pending.is_empty() {
            self.pending = pending;
        }
        is_complete
    }

    /// Adds the resources of `part`, a part of a rejected response, to `content`. Leaves out resources that no longer
    /// have to be sent. Resources that have to wait, and removals, become pending again.
    fn fill_retry(
        &mut self,
        content: &mut ResponseContent,
        part: Vec<Arc<str>>,
        view: &View<'_>,
        delayed: &DelayedChanges,
        holds: &Holds,
    ) {
        for name in part {
            let is_forced = self
                .pending
                .remove(&name)
                .is_some_and(|pending| pending.is_forced);
            match self.action(&name, is_forced, view) {
                Action::Upsert(entry)
                    if delayed.contains_upsert(entry) || holds.is_held(self.kind, &name) =>
                {
                    self.enqueue(name, UNKNOWN_SINCE, view.sequence(), is_forced);
                }
                Action::Upsert(entry) => content.push_upsert(entry, UNKNOWN_SINCE, is_forced),
                // The tombstone does not wait for listeners, because the rejected response contained the name already.
                Action::Tombstone(entry) => content.push_tombstone(*entry, UNKNOWN_SINCE, is_forced),
                Action::Remove => self.enqueue(name, UNKNOWN_SINCE, view.sequence(), is_forced),
                Action::None => self.drop_stale_rejection(&name, view),
            }
        }
    }

    /// Records the response with this content as in flight.
    pub(in crate::stream) fn on_sent(&mut self, nonce: String, content: ResponseContent) {
        let mut oldest_new: Option<u64> = None;
        let mut items = Vec::with_capacity(content.items.len());
        let mut tombstones = Vec::new();
        for item in content.items {
            let Item {
                resource,
                is_tombstone,
                created,
                is_forced,
                ..
            } = item;
            let previous = self.client_versions.insert(resource.clone());
            if !previous.as_ref().is_some_and(is_version_known) {
                oldest_new = oldest_new.into_iter().chain(created).min();
            }
            if is_tombstone {
                tombstones.push(resource.name.clone());
            }
            let version_after_nack = if is_forced {
                Some(unknown_version(&resource.name))
            } else {
                previous
            };
            items.push((resource, version_after_nack));
        }
        for name in &content.removed {
            self.client_versions.remove(name);
            self.sent_before_endpoints.remove(name);
        }
        self.in_flight = Some(InFlight {
            nonce,
            items,
            removed: content.removed,
            tombstones,
            oldest_new,
            since: content.since.unwrap_or(u64::MAX),
        });
    }
}

// === impl ResponseContent ===

impl ResponseContent {
    fn is_empty(&self) -> bool {
        self.items.is_empty() && self.removed.is_empty()
    }

    fn push_upsert(&mut self, entry: &Entry, since: u64, is_forced: bool) {
        self.items.push(Item {
            resource: entry.versioned_name.clone(),
            encoded: entry.encoded.clone(),
            is_tombstone: false,
            created: (!entry.is_on_demand()).then_some(entry.created),
            is_forced,
        });
        self.include_change(since);
    }

    fn push_tombstone(&mut self, entry: Entry, since: u64, is_forced: bool) {
        self.items.push(Item {
            resource: entry.versioned_name,
            encoded: entry.encoded,
            is_tombstone: true,
            created: None,
            is_forced,
        });
        self.include_change(since);
    }

    fn push_removal(&mut self, name: Arc<str>, since: u64) {
        self.removed.push(name);
        self.include_change(since);
    }

    fn include_change(&mut self, since: u64) {
        self.since = Some(self.since.map_or(since, |earlier| earlier.min(since)));
    }
}

fn size(entry: &Entry) -> usize {
    entry.encoded.len() + RESOURCE_OVERHEAD
}
