//! Rebalancing of proxies among the replicas.
//!
//! A proxy stays connected to its replica as long as the replica runs. After a rolling update, the replica that started
//! first has most of the proxies, and an added replica has none. The share of a replica is the number of all proxies
//! divided by the number of ready replicas. A replica with many more proxies than its share evicts a few proxies at a
//! time. Eviction ends the stream of a proxy. The proxy then reconnects through the Service to any replica, and
//! receives only changed resources.

use std::time::Duration;

use kermode_k8s::shared_index::SharedIndex;
use kermode_removals::Replicas;
use kermode_xds::server::AdsServer;
use tokio::sync::watch;
use tokio::time::sleep;

/// The tolerance of a replica, by which it may exceed its share of proxies, is the share divided by this number.
const TOLERANCE_DIVISOR: usize = 4;
/// Lower bound of the tolerance, in proxies: the Service distributes connections randomly, so small differences are
/// normal.
const MIN_TOLERANCE: usize = 3;
/// Maximum number of proxies evicted at once.
const MAX_EVICTIONS_AT_ONCE: usize = 10;
/// Interval between evictions.
const EVICTION_INTERVAL: Duration = Duration::from_secs(1);
/// Time until the next check after [`Action::Wait`].
const CHECK_INTERVAL: Duration = Duration::from_secs(10);
/// Number of consecutive balanced checks after which the state of the [`Rebalancer`] is reset.
const BALANCED_CHECKS_BEFORE_RESET: u32 = 12;
/// Rebalancing is suspended after this number of evictions per excess proxy. With two replicas, two evictions per
/// excess proxy are expected, because half of the evicted proxies reconnect to the same replica. More evictions mean
/// that the Service prefers this replica, for example because of topology-aware routing.
const MAX_EVICTIONS_PER_EXCESS_PROXY: usize = 4;
/// Time for which rebalancing is suspended.
const SUSPENSION: Duration = Duration::from_mins(30);

/// Input of [`Rebalancer::next_action`].
#[derive(Clone, Copy, Debug)]
struct ProxyCounts {
    /// Proxies connected to this replica.
    own: usize,
    /// All proxies in the index, connected or not.
    total: usize,
    /// Ready replicas, including this replica.
    replicas: usize,
}

/// Next action of the [`Rebalancer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    /// Evict this number of proxies.
    Evict(usize),
    /// Evict nothing, and check again after [`CHECK_INTERVAL`].
    Wait,
    /// Evict nothing, and check again after [`SUSPENSION`].
    Suspend,
}

/// State of rebalancing since this replica began to have an excess ([`ProxyCounts::excess`]).
#[derive(Debug, Default)]
struct Rebalancer {
    /// Largest excess.
    peak_excess: usize,
    /// Number of evicted proxies.
    evicted: usize,
    /// Number of consecutive checks without an excess.
    balanced_checks: u32,
}

/// Evicts proxies whenever this replica has an excess, until the future is dropped.
pub async fn run(ads: AdsServer, index: SharedIndex, replicas: watch::Receiver<Replicas>) {
    let mut rebalancer = Rebalancer::default();
    loop {
        let counts = {
            let replicas = replicas.borrow();
            // Until the replicas are stable, the proxies of an ended replica are still reconnecting, and some nodes do
            // not route to a new replica yet.
            replicas.are_stable().then(|| ProxyCounts {
                own: ads.proxy_count(),
                total: index.read().view().dataplanes().count(),
                replicas: replicas.ready_others + 1,
            })
        };
        match counts.map_or(Action::Wait, |counts| rebalancer.next_action(counts)) {
            Action::Evict(count) => {
                let evicted = ads.evict_proxies(count);
                tracing::info!(
                    evicted,
                    ?counts,
                    "this replica has more proxies than its share: proxies evicted"
                );
                sleep(EVICTION_INTERVAL).await;
            }
            Action::Wait => sleep(CHECK_INTERVAL).await,
            Action::Suspend => {
                tracing::warn!(
                    ?counts,
                    "evicted proxies reconnect to this replica: rebalancing is suspended; check whether the Service \
                     prefers this replica"
                );
                sleep(SUSPENSION).await;
            }
        }
    }
}

impl ProxyCounts {
    /// Returns the number of connected proxies beyond the sum of the share and the tolerance.
    fn excess(self) -> usize {
        let share = self.total.div_ceil(self.replicas.max(1));
        let tolerance = (share / TOLERANCE_DIVISOR).max(MIN_TOLERANCE);
        self.own.saturating_sub(share + tolerance)
    }
}

impl Rebalancer {
    fn next_action(&mut self, counts: ProxyCounts) -> Action {
        let excess = counts.excess();
        if excess == 0 {
            self.balanced_checks = self.balanced_checks.saturating_add(1);
            // Recently evicted proxies may still reconnect to this replica, so the state is not reset immediately.
            if self.balanced_checks >= BALANCED_CHECKS_BEFORE_RESET {
                *self = Self::default();
            }
            return Action::Wait;
        }
        self.balanced_checks = 0;
        self.peak_excess = self.peak_excess.max(excess);
        let remaining = (self.peak_excess * MAX_EVICTIONS_PER_EXCESS_PROXY).saturating_sub(self.evicted);
        let count = excess.min(MAX_EVICTIONS_AT_ONCE).min(remaining);
        if count == 0 {
            *self = Self::default();
            return Action::Suspend;
        }
        self.evicted += count;
        Action::Evict(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_counts(own: usize, total: usize, replicas: usize) -> ProxyCounts {
        ProxyCounts { own, total, replicas }
    }

    #[test]
    fn replica_within_the_tolerance_has_no_excess() {
        for (own, proxies, replicas) in [
            (0, 0, 1),
            (100, 100, 1),
            (5, 6, 3),
            (36, 90, 3),
            (4_000, 10_000, 3),
        ] {
            let excess = mk_counts(own, proxies, replicas).excess();
            assert_eq!(excess, 0, "{own} of {proxies} proxies with {replicas} replicas");
        }
        // More proxies are connected to this replica than the index contains.
        assert_eq!(mk_counts(10, 3, 3).excess(), 6);
    }

    #[test]
    fn evictions_reduce_a_replica_with_all_proxies_to_about_its_share() {
        for (proxies, replicas) in [(16, 3), (1_000, 2), (10_000, 3), (10_000, 10)] {
            let mut rebalancer = Rebalancer::default();
            let mut own = proxies;
            let mut steps = 0;
            while let Action::Evict(count) = rebalancer.next_action(mk_counts(own, proxies, replicas)) {
                assert!((1..=MAX_EVICTIONS_AT_ONCE).contains(&count));
                // A fraction of 1 / `replicas` of the evicted proxies reconnects to this replica.
                own -= count - count / replicas;
                steps += 1;
            }
            assert_eq!(
                rebalancer.next_action(mk_counts(own, proxies, replicas)),
                Action::Wait
            );
            let share = proxies / replicas;
            // `excess` rounds the share up, so the bound is above the tolerance of `share / TOLERANCE_DIVISOR`.
            assert!(
                own <= share + share / 3 + MIN_TOLERANCE,
                "{own} of {proxies} proxies"
            );
            assert!(steps <= proxies, "{steps}");
        }
    }

    #[test]
    fn rebalancing_is_suspended_when_evicted_proxies_reconnect_to_this_replica() {
        let mut rebalancer = Rebalancer::default();
        let all_at_this_replica = mk_counts(100, 100, 2);
        let evicted: usize = std::iter::from_fn(|| match rebalancer.next_action(all_at_this_replica) {
            Action::Evict(count) => Some(count),
            Action::Wait | Action::Suspend => None,
        })
        .sum();
        assert_eq!(
            evicted,
            all_at_this_replica.excess() * MAX_EVICTIONS_PER_EXCESS_PROXY
        );
        let mut rebalancer = Rebalancer::default();
        let suspended_at = (0..1_000).find(|check| {
            // Every second check happens while the proxies reconnect.
            let counts = if check % 2 == 0 {
                all_at_this_replica
            } else {
                mk_counts(0, 100, 2)
            };
            rebalancer.next_action(counts) == Action::Suspend
        });
        assert!(suspended_at.is_some(), "rebalancing is never suspended");
        assert!(
            matches!(rebalancer.next_action(all_at_this_replica), Action::Evict(_)),
            "evictions resume after the suspension"
        );
    }
}
