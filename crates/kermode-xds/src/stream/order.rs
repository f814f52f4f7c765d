//! Make before break: which change has to wait for which other.
//!
//! Bodies are opaque here, so a dependency is read off the order of publication: whoever publishes a listener has
//! published its clusters before or with it. What a change waits for was published no later than the change itself,
//! is in flight or about to be, and stops counting once it is answered, either way: so every wait ends, and later
//! changes do not prolong it. A cluster whose endpoints the client never asks for (not of type EDS) is not waited
//! for beyond its own answer.

use std::collections::HashSet;
use std::sync::Arc;

use kermode_envoy::ResourceKind::{self, Cluster, Endpoints, Listener, Route, Secret};

use super::tracker::Tracker;
use crate::store::{Entry, View};

/// The order in which kinds get their turn. Clusters have a second one, since their removal may have become possible.
pub(super) const SENDING: [ResourceKind; 6] = [Secret, Cluster, Endpoints, Listener, Route, Cluster];

/// What holds changes of one kind back at the moment.
#[derive(Debug)]
pub(super) enum Gate {
    /// Nothing.
    Open,
    /// New or changed resources published at this point or later, because something they may need is not there yet.
    Upserts {
        /// When the oldest such thing was published.
        fence: u64,
    },
    /// Removals that happened at this point or later, because something that may still refer to them is not changed yet.
    Removals {
        /// When the oldest such change happened.
        fence: u64,
    },
    /// Removals of endpoints whose cluster the client still has, and is about to lose.
    Clusters {
        /// Their names.
        losing: HashSet<Arc<str>>,
    },
}

// === impl Gate ===

impl Gate {
    /// The gate for a kind, as things stand.
    pub(super) fn of(kind: ResourceKind, trackers: &[Tracker], view: &View<'_>) -> Self {
        let tracker = |kind: ResourceKind| &trackers[kind as usize];
        match kind {
            Secret => Gate::Open,
            Endpoints => {
                let pending = tracker(Endpoints).pending_names();
                let losing = pending.filter(|name| tracker(Cluster).is_losing(name, view));
                Gate::Clusters {
                    losing: losing.cloned().collect(),
                }
            }
            Listener | Route => {
                let fences = [Cluster, Endpoints].map(|kind| tracker(kind).oldest_missing(view));
                fences
                    .into_iter()
                    .flatten()
                    .min()
                    .map_or(Gate::Open, |fence| Gate::Upserts { fence })
            }
            // A client that comes back with clusters has not said yet which listeners it has. It will have when it
            // answers for the first time.
            Cluster if !tracker(Listener).is_heard() && !tracker(Cluster).is_answered() => {
                Gate::Removals { fence: 0 }
            }
            Cluster => {
                let fences = [Listener, Route].map(|kind| tracker(kind).oldest_change(view));
                fences
                    .into_iter()
                    .flatten()
                    .min()
                    .map_or(Gate::Open, |fence| Gate::Removals { fence })
            }
        }
    }

    /// Whether a new or changed resource has to wait.
    pub(super) fn holds_upsert(&self, entry: &Entry) -> bool {
        matches!(self, Gate::Upserts { fence } if entry.sequence >= *fence)
    }

    /// Whether a removal that happened at that point has to wait.
    pub(super) fn holds_removal(&self, name: &Arc<str>, happened: u64) -> bool {
        match self {
            Gate::Open | Gate::Upserts { .. } => false,
            Gate::Removals { fence } => happened >= *fence,
            Gate::Clusters { losing } => losing.contains(name),
        }
    }
}
