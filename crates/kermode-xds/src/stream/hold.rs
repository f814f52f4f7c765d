//! Held resources: on-demand resources that are not sent until the client has ACKed or NACKed other resources, or until
//! a time limit.
//!
//! [`OnDemand::after`] lists the resources for which a resource waits. A hold delays only the held resource, neither
//! other names of its kind nor other kinds. The caller passes in the time, see [`Stream::next_deadline`].
//!
//! [`OnDemand::after`]: kermode_envoy::OnDemand::after
//! [`Stream::next_deadline`]: super::Stream::next_deadline

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kermode_envoy::ResourceKind;

use super::tracker::Tracker;
use crate::store::{Key, View};

/// Pending resources of a stream that wait for other resources, or stopped waiting at their deadline.
#[derive(Debug, Default)]
pub(super) struct Holds(BTreeMap<Key, Hold>);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Hold {
    /// Waiting since the current step of the stream ([`Output`](super::Output)). The deadline is not set yet.
    New,
    /// Waiting until this time at most.
    Until(Instant),
    /// No longer waiting. Kept until the resource is acknowledged, so that the resource does not wait again if its
    /// response is rejected.
    Expired,
}

// === impl Holds ===

impl Holds {
    /// Recomputes the holds from the pending names. A hold that continues keeps its deadline.
    pub(super) fn update(&mut self, trackers: &[Tracker], view: &View<'_>) {
        let mut previous = std::mem::take(&mut self.0);
        // The pending names of other kinds are not searched.
        let kinds = ResourceKind::ALL
            .into_iter()
            .filter(|kind| view.has_holdable(*kind));
        for tracker in kinds.map(|kind| &trackers[kind as usize]) {
            for entry in tracker.pending_upserts(view) {
                let after = entry.on_demand.iter().flat_map(|on_demand| &on_demand.after);
                let mut awaited =
                    after.filter(|(kind, name)| trackers[*kind as usize].is_awaited(name, view));
                if awaited.next().is_some() {
                    let key = entry.key();
                    // `pending_upserts` may return a resource twice: as pending, and as part of a rejected response.
                    // The second time, the hold of the first time stays.
                    let hold = previous.remove(&key).unwrap_or(Hold::New);
                    self.0.entry(key).or_insert(hold);
                }
            }
        }
        let expired = previous.into_iter().filter(|(key, hold)| {
            *hold == Hold::Expired && trackers[key.kind as usize].is_resource_in_flight(&key.name)
        });
        self.0.extend(expired);
    }

    /// Returns whether a pending resource has to wait.
    pub(super) fn is_held(&self, kind: ResourceKind, name: &Arc<str>) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let key = Key {
            kind,
            name: name.clone(),
        };
        self.0.get(&key).is_some_and(|hold| *hold != Hold::Expired)
    }

    /// Sets the deadline of new holds. Returns the earliest deadline of all holds.
    pub(super) fn next_deadline(&mut self, now: Instant, time_limit: Duration) -> Option<Instant> {
        let deadlines = self.0.values_mut().filter_map(|hold| {
            if *hold == Hold::New {
                *hold = Hold::Until(now + time_limit);
            }
            match hold {
                Hold::Until(deadline) => Some(*deadline),
                Hold::New | Hold::Expired => None,
            }
        });
        deadlines.min()
    }

    /// Ends the holds whose deadline has passed.
    pub(super) fn expire(&mut self, now: Instant) {
        for hold in self.0.values_mut() {
            if matches!(hold, Hold::Until(deadline) if *deadline <= now) {
                *hold = Hold::Expired;
            }
        }
    }
}
