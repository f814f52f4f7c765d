//! Status of endpoint removals, as sidecars and operators read it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use kermode_model::ObjectKey;

/// Status of an endpoint's removal among the proxies of this replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemovalStatus {
    /// No removal of the endpoint is known here.
    NotRemoved,
    /// Some proxies have not acknowledged the removal.
    Pending {
        /// Number of those proxies.
        proxies: usize,
    },
    /// Every proxy has acknowledged the removal.
    Acknowledged {
        /// Time from the publication of the removal to the last acknowledgement.
        after: Duration,
    },
}

/// Everything that one replica reports about a removal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemovalReport {
    /// Status among the proxies that have a stream at this replica.
    pub status: RemovalStatus,
    /// Addresses at which the other replicas serve proxies and report in turn.
    pub other_replicas: Arc<[SocketAddr]>,
    /// Whether every proxy that may have the endpoint is counted by this replica or by one of the others. False for a while
    /// after a replica started or ended.
    pub is_complete: bool,
}

/// Removal that some proxies have not acknowledged, for operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenRemoval {
    /// Dataplane of the removed endpoint.
    pub endpoint: ObjectKey,
    /// Time since the removal was published.
    pub age: Duration,
    /// Number of proxies that have not acknowledged it.
    pub unacknowledged_by: usize,
    /// Some of those proxies.
    pub examples: Vec<ObjectKey>,
}
