//! Make before break: the order in which changes of different kinds are sent.
//!
//! The stream does not decode resources, so it derives dependencies from the order of publication: the publisher writes
//! the clusters of a listener before the listener or together with it. A change waits only for resources that were
//! published no later than the change itself and that are in flight or pending. Both an ACK and a NACK end the wait.
//! Later changes do not prolong the wait. Endpoints delay a listener only if the client subscribed to them. Envoy
//! subscribes only to the endpoints of clusters of type EDS.

use std::collections::HashSet;
use std::sync::Arc;

use kermode_envoy::ResourceKind::{self, Cluster, Endpoints, Listener, Route, Secret};

use super::tracker::Tracker;
use crate::store::{Entry, View};

/// Kinds in the order in which they are sent. Clusters occur again at the end: some pending changes of listeners and
/// routes have only a lower bound as their sequence number. Once these changes are sent, their numbers are exact, and
/// fewer removals of clusters have to wait for them.
pub(super) const KINDS: [ResourceKind; 6] = [Secret, Cluster, Endpoints, Listener, Route, Cluster];

/// Changes of one kind that must not be sent yet.
#[derive(Debug)]
pub(super) enum DelayedChanges {
    /// No change has to wait.
    Nothing,
    /// New and changed resources whose sequence number is `fence` or higher.
    Upserts {
        /// Sequence number of the oldest cluster or endpoints that the client should have and does not have.
        fence: u64,
    },
    /// Removals whose sequence number is `fence` or higher.
    Removals {
        /// Sequence number of the oldest unacknowledged change of a listener or route.
        fence: u64,
    },
    /// Removals of the endpoints of clusters that the client still has and is about to lose.
    EndpointRemovals {
        /// Names of the clusters. The endpoints of a cluster have the same name.
        clusters: HashSet<Arc<str>>,
    },
}

// === impl DelayedChanges ===

impl DelayedChanges {
    /// Determines which changes of a kind have to wait.
    pub(super) fn new(kind: ResourceKind, trackers: &[Tracker], view: &View<'_>) -> Self {
        let tracker = |kind: ResourceKind| &trackers[kind as usize];
        match kind {
            Secret => DelayedChanges::Nothing,
            Endpoints => {
                let pending = tracker(Endpoints).pending_names();
                let losing = pending.filter(|name| tracker(Cluster).is_losing(name, view));
                DelayedChanges::EndpointRemovals {
                    clusters: losing.cloned().collect(),
                }
            }
            Listener | Route => {
                let fences = [Cluster, Endpoints].map(|kind| tracker(kind).oldest_missing(view));
                let fence = fences.into_iter().flatten().min();
                fence.map_or(DelayedChanges::Nothing, |fence| DelayedChanges::Upserts { fence })
            }
            // A reconnecting client reports its clusters before its listeners. Until it has requested listeners, or has
            // ACKed or NACKed clusters, it may have listeners that this stream does not know. They may refer to any
            // cluster.
            Cluster if !tracker(Listener).is_requested() && !tracker(Cluster).has_ack_or_nack() => {
                DelayedChanges::Removals { fence: 0 }
            }
            Cluster => {
                let fences = [Listener, Route].map(|kind| tracker(kind).oldest_change(view));
                let fence = fences.into_iter().flatten().min();
                fence.map_or(DelayedChanges::Nothing, |fence| DelayedChanges::Removals {
                    fence,
                })
            }
        }
    }

    /// Returns whether a new or changed resource has to wait.
    pub(super) fn contains_upsert(&self, entry: &Entry) -> bool {
        matches!(self, DelayedChanges::Upserts { fence } if entry.sequence >= *fence)
    }

    /// Returns whether the removal of a resource, with this sequence number, has to wait.
    pub(super) fn contains_removal(&self, name: &Arc<str>, sequence: u64) -> bool {
        match self {
            DelayedChanges::Nothing | DelayedChanges::Upserts { .. } => false,
            DelayedChanges::Removals { fence } => sequence >= *fence,
            DelayedChanges::EndpointRemovals { clusters } => clusters.contains(name),
        }
    }
}
