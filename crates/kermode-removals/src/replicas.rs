//! The replicas of the control plane, as one replica observes them. `kuma-cp` derives this state from a watch of Pods,
//! for endpoint removals and for rebalancing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

/// Time within which a proxy that lost its stream opens another one, at any replica. A proxy without a stream for
/// longer is considered terminated.
pub const RECONNECT_TIMEOUT: Duration = Duration::from_mins(1);

/// The replicas of the control plane.
#[derive(Clone, Debug, Default)]
pub struct Replicas {
    /// Addresses at which the other replicas serve proxies.
    pub others: Arc<[SocketAddr]>,
    /// Number of other replicas that are ready, and so receive connections from the Service.
    pub ready_others: usize,
    /// Time of the last start or end of a replica, including this one. `None` while the replicas are not known: until
    /// the first list is complete, and while the list does not contain this replica.
    pub unchanged_since: Option<Instant>,
}

impl Replicas {
    /// Returns whether no replica started or ended within the last [`RECONNECT_TIMEOUT`]. If so, every proxy of an
    /// ended replica has connected to another replica, or is considered terminated. Returns false while the replicas
    /// are not known.
    pub fn are_stable(&self) -> bool {
        self.unchanged_since
            .is_some_and(|since| since.elapsed() >= RECONNECT_TIMEOUT)
    }
}
