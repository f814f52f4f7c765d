//! Rebalancing of proxies among the replicas.
//!
//! A proxy stays connected to its replica as long as the replica runs. After a rolling update, the replica that started
//! first has most of the proxies, and an added replica has none. A replica with many more proxies than its share evicts a
//! few streams at a time. Their proxies reconnect through the Service to any replica and receive only changed resources.

use std::time::Duration;

use kermode_removals::Replicas;
use kermode_xds::server::AdsServer;
use tokio::sync::watch;
use tokio::time::sleep;

use kermode_k8s::shared_index::SharedIndex;

/// Tolerated excess of a replica over its share of proxies: the share divided by this.
const EXCESS_DIVISOR: usize = 4;
/// Lower bound of the tolerated excess, in proxies: the Service spreads connections randomly, so small differences are
/// normal.
const MIN_EXCESS: usize = 3;
/// Limit of proxies evicted in one step.
const BATCH: usize = 10;
/// Interval between steps. With [`BATCH`], it limits the rate of reconnections to the other replicas.
const STEP_INTERVAL: Duration = Duration::from_secs(1);
/// Interval between checks while the proxies are balanced.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);
/// Number of consecutive balanced checks after which the counter of moved proxies is reset.
const BALANCED_CHECKS: u32 = 12;
/// Number of evictions per excess proxy before rebalancing is suspended. With two replicas, every second proxy reconnects to
/// this replica; when nearly all do, the Service prefers this replica, for example by topology.
const MAX_ATTEMPTS: usize = 4;
/// Time for which rebalancing is suspended.
const SUSPENSION: Duration = Duration::from_mins(30);

/// Input of a decision.
#[derive(Clone, Copy, Debug)]
struct ProxyCounts {
    /// Proxies connected to this replica.
    own: usize,
    /// All proxies in the index, connected or not.
    proxies: usize,
    /// Ready replicas, including this one.
    replicas: usize,
}

/// Next action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Evict this number of proxies.
    Evict(usize),
    /// Check again soon.
    Check,
    /// Suspend rebalancing.
    Suspend,
}

/// State of rebalancing since the excess began.
#[derive(Debug, Default)]
struct Rebalancer {
    /// Largest excess seen.
    peak: usize,
    /// Proxies evicted.
    moved: usize,
    /// Consecutive checks without excess.
    balanced: u32,
}

/// Evicts proxies whenever this replica holds too many, until the future is dropped.
pub async fn run(ads: AdsServer, index: SharedIndex, replicas: watch::Receiver<Replicas>) {
    let mut rebalancer = Rebalancer::default();
    loop {
        let shares = {
            let replicas = replicas.borrow();
            // After the end of a replica, its proxies are still reconnecting; after a start, not every node routes to the new
            // replica yet.
            replicas.are_stable().then(|| ProxyCounts {
                own: ads.proxy_count(),
                proxies: index.read().view().dataplanes().count(),
                replicas: replicas.ready_others + 1,
            })
        };
        match shares.map_or(Step::Check, |shares| rebalancer.step(shares)) {
            Step::Evict(count) => {
                let sent = ads.evict_proxies(count);
                tracing::info!(
                    sent,
                    ?shares,
                    "this replica has more proxies than its share: streams evicted"
                );
                sleep(STEP_INTERVAL).await;
            }
            Step::Check => sleep(CHECK_INTERVAL).await,
            Step::Suspend => {
                tracing::warn!(
                    ?shares,
                    "evicted proxies reconnect to this replica: rebalancing is suspended; check whether the Service prefers this replica"
                );
                sleep(SUSPENSION).await;
            }
        }
    }
}

impl ProxyCounts {
    /// Number of proxies above the share and the tolerated excess.
    fn excess(self) -> usize {
        let share = self.proxies.div_ceil(self.replicas.max(1));
        let tolerance = (share / EXCESS_DIVISOR).max(MIN_EXCESS);
        self.own.saturating_sub(share + tolerance)
    }
}

impl Rebalancer {
    fn step(&mut self, counts: ProxyCounts) -> Step {
        let excess = counts.excess();
        if excess == 0 {
            self.balanced = self.balanced.saturating_add(1);
            // Proxies evicted a moment ago may still reconnect to this replica.
            if self.balanced >= BALANCED_CHECKS {
                *self = Self::default();
            }
            return Step::Check;
        }
        self.balanced = 0;
        self.peak = self.peak.max(excess);
        let allowance = (self.peak * MAX_ATTEMPTS).saturating_sub(self.moved);
        let count = excess.min(BATCH).min(allowance);
        if count == 0 {
            *self = Self::default();
            return Step::Suspend;
        }
        self.moved += count;
        Step::Evict(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(own: usize, proxies: usize, replicas: usize) -> ProxyCounts {
        ProxyCounts {
            own,
            proxies,
            replicas,
        }
    }

    #[test]
    fn random_differences_are_tolerated() {
        for (own, proxies, replicas) in [
            (0, 0, 1),
            (100, 100, 1),
            (5, 6, 3),
            (36, 90, 3),
            (4_000, 10_000, 3),
            (10, 3, 3), // connected here, but not in the index any more
        ] {
            let excess = shares(own, proxies, replicas).excess();
            assert_eq!(
                excess,
                usize::from(proxies == 3) * 6,
                "{own} of {proxies} at {replicas}"
            );
        }
    }

    #[test]
    fn replica_that_had_all_proxies_ends_close_to_its_share() {
        for (proxies, replicas) in [(16, 3), (1_000, 2), (10_000, 3), (10_000, 10)] {
            let (mut own, mut rebalancer, mut steps) = (proxies, Rebalancer::default(), 0);
            while let Step::Evict(count) = rebalancer.step(shares(own, proxies, replicas)) {
                assert!((1..=BATCH).contains(&count));
                // Of the evicted proxies, 1 / replicas come back.
                own -= count - count / replicas;
                steps += 1;
            }
            assert_eq!(rebalancer.step(shares(own, proxies, replicas)), Step::Check);
            let share = proxies / replicas;
            assert!(own <= share + share / 3 + MIN_EXCESS, "{own} of {proxies}");
            assert!(steps <= proxies, "{steps}");
        }
    }

    #[test]
    fn rebalancing_is_suspended_when_all_proxies_come_back() {
        let mut rebalancer = Rebalancer::default();
        let all_here = shares(100, 100, 2);
        let sent: usize = std::iter::from_fn(|| match rebalancer.step(all_here) {
            Step::Evict(count) => Some(count),
            Step::Check | Step::Suspend => None,
        })
        .sum();
        assert_eq!(sent, all_here.excess() * MAX_ATTEMPTS);
        let mut rebalancer = Rebalancer::default();
        let suspended = (0..1_000).find(|check| {
            // Every second check happens while the proxies reconnect.
            let shares = if check % 2 == 0 {
                all_here
            } else {
                shares(0, 100, 2)
            };
            rebalancer.step(shares) == Step::Suspend
        });
        assert!(suspended.is_some(), "rebalancing is never suspended");
        assert!(
            matches!(rebalancer.step(all_here), Step::Evict(_)),
            "after the suspension"
        );
    }
}
