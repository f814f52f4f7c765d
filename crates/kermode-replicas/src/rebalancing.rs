//! Shares the proxies among the replicas.
//!
//! A proxy stays with its replica as long as that one runs. So after a rolling update the replica that began first has most
//! of them, the one that began last hardly any, and a replica that is added has none. One that has many more than its share
//! sends some elsewhere, a few at a time: they come back by the Service, to any replica, and are sent only what has
//! changed.

use std::time::Duration;

use kermode_removals::Replicas;
use kermode_xds::server::AdsServer;
use tokio::sync::watch;
use tokio::time::sleep;

use kermode_k8s::shared_index::SharedIndex;

/// How many proxies a replica may have beyond its share: this part of it,
const SLACK: usize = 4;
/// but always as many as this. The Service spreads by chance.
const LEAST_SLACK: usize = 3;
/// How many are sent elsewhere at once.
const AT_ONCE: usize = 10;
/// Between two times.
const PAUSE: Duration = Duration::from_secs(1);
/// Between two looks while there is nothing to do.
const LOOK: Duration = Duration::from_secs(10);
/// After how many looks in a row that found not too many those are forgotten that were sent.
const CALM: u32 = 12;
/// How often as many as are too many are sent elsewhere before it is given up for a while: with two replicas every second
/// one comes back, and if all do, then the Service leads them here on purpose.
const TRIES: usize = 4;
/// For how long.
const REST: Duration = Duration::from_mins(30);

/// What is decided from.
#[derive(Clone, Copy, Debug)]
struct Shares {
    /// Proxies that this replica has.
    own: usize,
    /// All that there are; some may be connected to no replica.
    proxies: usize,
    /// Replicas that are ready, this one included.
    replicas: usize,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Send so many elsewhere.
    Send(usize),
    /// Look again soon.
    Look,
    /// Leave it for long.
    Rest,
}

/// Remembers how many have been sent elsewhere since there were too many.
#[derive(Debug, Default)]
struct Sharing {
    /// How many were too many at most.
    peak: usize,
    sent: usize,
    /// How often in a row there were not too many.
    calm: u32,
}

/// Sends proxies elsewhere whenever there are too many, until the process ends.
pub async fn keep(ads: AdsServer, index: SharedIndex, replicas: watch::Receiver<Replicas>) {
    let mut sharing = Sharing::default();
    loop {
        let shares = {
            let replicas = replicas.borrow();
            // Those of a replica that has just ended are on their way to one that they choose themselves, and to one that has
            // just begun not every node leads.
            replicas.are_stable().then(|| Shares {
                own: ads.proxies(),
                proxies: index.read().view().dataplanes().count(),
                replicas: replicas.ready + 1,
            })
        };
        match shares.map_or(Step::Look, |shares| sharing.step(shares)) {
            Step::Send(count) => {
                let sent = ads.evict_proxies(count);
                tracing::info!(
                    sent,
                    ?shares,
                    "more proxies than its share: some are sent to other replicas"
                );
                sleep(PAUSE).await;
            }
            Step::Look => sleep(LOOK).await,
            Step::Rest => {
                tracing::warn!(
                    ?shares,
                    "more proxies than its share, but those sent elsewhere come back; does the Service prefer this replica?"
                );
                sleep(REST).await;
            }
        }
    }
}

impl Shares {
    /// How many more proxies there are than this replica should have.
    fn excess(self) -> usize {
        let share = self.proxies.div_ceil(self.replicas.max(1));
        let slack = (share / SLACK).max(LEAST_SLACK);
        self.own.saturating_sub(share + slack)
    }
}

impl Sharing {
    fn step(&mut self, shares: Shares) -> Step {
        let excess = shares.excess();
        if excess == 0 {
            self.calm = self.calm.saturating_add(1);
            // Those that were sent away a moment ago may be on their way back.
            if self.calm >= CALM {
                *self = Self::default();
            }
            return Step::Look;
        }
        self.calm = 0;
        self.peak = self.peak.max(excess);
        let allowance = (self.peak * TRIES).saturating_sub(self.sent);
        let count = excess.min(AT_ONCE).min(allowance);
        if count == 0 {
            *self = Self::default();
            return Step::Rest;
        }
        self.sent += count;
        Step::Send(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(own: usize, proxies: usize, replicas: usize) -> Shares {
        Shares {
            own,
            proxies,
            replicas,
        }
    }

    #[test]
    fn what_the_service_spreads_by_chance_is_left_alone() {
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
    fn a_replica_that_had_all_ends_with_little_more_than_its_share_of_any_number() {
        for (proxies, replicas) in [(16, 3), (1_000, 2), (10_000, 3), (10_000, 10)] {
            let (mut own, mut sharing, mut steps) = (proxies, Sharing::default(), 0);
            while let Step::Send(count) = sharing.step(shares(own, proxies, replicas)) {
                assert!((1..=AT_ONCE).contains(&count));
                // One in so many comes back.
                own -= count - count / replicas;
                steps += 1;
            }
            assert_eq!(sharing.step(shares(own, proxies, replicas)), Step::Look);
            let share = proxies / replicas;
            assert!(own <= share + share / 3 + LEAST_SLACK, "{own} of {proxies}");
            assert!(steps <= proxies, "{steps}");
        }
    }

    #[test]
    fn proxies_that_always_come_back_are_left_alone_for_long() {
        let mut sharing = Sharing::default();
        let all_here = shares(100, 100, 2);
        let sent: usize = std::iter::from_fn(|| match sharing.step(all_here) {
            Step::Send(count) => Some(count),
            Step::Look | Step::Rest => None,
        })
        .sum();
        assert_eq!(sent, all_here.excess() * TRIES);
        let mut sharing = Sharing::default();
        let rest = (0..1_000).find(|turn| {
            // Now and then they are not back yet.
            let shares = if turn % 2 == 0 {
                all_here
            } else {
                shares(0, 100, 2)
            };
            sharing.step(shares) == Step::Rest
        });
        assert!(rest.is_some(), "it never gives up");
        assert!(matches!(sharing.step(all_here), Step::Send(_)), "after the rest");
    }
}
