//! The replicas of the control plane as one of them sees them. `kuma-cp` watches their Pods; endpoint removals and
//! rebalancing read the result.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

/// Time within which a proxy that lost its stream opens another one, at any replica. A proxy that stays away longer is
/// taken to have ended.
pub const RECONNECT_TIMEOUT: Duration = Duration::from_mins(1);

/// The replicas of the control plane.
#[derive(Clone, Debug, Default)]
pub struct Replicas {
    /// Addresses at which the other replicas serve proxies.
    pub others: Arc<[SocketAddr]>,
    /// Number of other replicas that are ready, so that the Service sends proxies to them.
    pub ready: usize,
    /// Time at which the last replica started or ended, this one included; none until the replicas are known. The
    /// proxies of a replica that ended keep their configuration and connect to another replica.
    pub unchanged_since: Option<Instant>,
}

impl Replicas {
    /// Whether no replica started or ended within the [`RECONNECT_TIMEOUT`]. Every proxy of a replica that ended before
    /// has connected to another one by then.
    pub fn are_stable(&self) -> bool {
        self.unchanged_since
            .is_some_and(|since| since.elapsed() >= RECONNECT_TIMEOUT)
    }
}
