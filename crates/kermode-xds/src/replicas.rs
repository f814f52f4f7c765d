//! The replicas of the control plane: who else serves proxies, and whether all proxies can be expected to be with one.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::time::Instant;

use crate::departures::ABSENCE;

/// The replicas as one of them sees them.
#[derive(Clone, Debug, Default)]
pub struct Replicas {
    /// Where the others serve proxies.
    pub others: Arc<[SocketAddr]>,
    /// How many of the others are ready, so that proxies get to them by the Service.
    pub ready: usize,
    /// Since when none of them has been seen to begin or to end, this one included; none while they are not known. What
    /// proxies one had that has ended is not known: they keep their configuration, and are on their way to another.
    pub since: Option<Instant>,
}

impl Replicas {
    /// Whether they have been the same for as long as a proxy without a stream is waited for. By then those that one had
    /// that has ended are at another.
    pub fn are_settled(&self) -> bool {
        self.since.is_some_and(|since| since.elapsed() >= ABSENCE)
    }
}
