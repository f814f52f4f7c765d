//! Status of endpoint removals, for sidecars and operators.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use kermode_model::ObjectKey;

/// Status of an endpoint's removal among the proxies of this replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemovalStatus {
    /// This replica has recorded neither a removal of the endpoint nor a query for it.
    NotRemoved,
    /// Some proxies have not acknowledged the removal.
    Pending {
        /// Number of proxies that have not acknowledged the removal.
        proxies: usize,
    },
    /// Every proxy has acknowledged the removal.
    Acknowledged {
        /// Time from the publication of the removal to the last acknowledgement. For an endpoint that this replica
        /// never published, the time starts when a sidecar first asks for the status.
        after: Duration,
    },
}

/// Report of one replica on a removal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemovalReport {
    /// Status among the proxies of this replica.
    pub status: RemovalStatus,
    /// Addresses at which the other replicas serve proxies. The caller has to ask each of these replicas, too.
    pub other_replicas: Arc<[SocketAddr]>,
    /// Whether the reports of all replicas together cover every proxy that may have the endpoint. False while the
    /// replicas are not known, and for [`crate::RECONNECT_TIMEOUT`] after a replica has started or ended.
    pub covers_all_proxies: bool,
}

/// Removal that at least one proxy has not acknowledged. Shown to operators by `/debug/removals`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenRemoval {
    /// Dataplane of the removed endpoint.
    pub endpoint: ObjectKey,
    /// Time since the removal was published.
    pub age: Duration,
    /// Number of proxies that have not acknowledged the removal.
    pub unacknowledged_count: usize,
    /// Names of some of the proxies that have not acknowledged the removal.
    pub examples: Vec<ObjectKey>,
}
