//! Backoff of calls to the control plane: exponential, bounded, with jitter. Clock and randomness are passed in.

use std::time::Duration;

/// Backoff after the first failure.
const FIRST: Duration = Duration::from_millis(100);
/// Upper bound of the backoff.
const MAX: Duration = Duration::from_secs(10);
/// Upper bound of the backoff while the control plane has not seen the Pod yet, which takes less than a second.
const EARLY_MAX: Duration = Duration::from_millis(500);
/// Number of attempts that [`EARLY_MAX`] applies to.
const EARLY_ATTEMPTS: u32 = 10;
/// Time span over which the proxies of a lost replica spread their first reconnection. They have configuration and
/// certificates, so reconnecting is not urgent.
const SPREAD: Duration = Duration::from_secs(2);
/// Number of failures that a lost connection counts as: the backoff of failed reconnections starts at 800 ms.
const LOST: u32 = 3;

/// Number of consecutive failures, from which the backoff follows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Returns the backoff after a failure: 50 % to 100 % of 100 ms, doubled per failure, at most 10 s. `jitter` is between
    /// 0 and 1.
    pub(crate) fn next(&mut self, jitter: f64) -> Duration {
        let full = FIRST.saturating_mul(1 << self.failures.min(16)).min(MAX);
        self.failures = self.failures.saturating_add(1);
        full.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0)
    }

    /// Returns the backoff after `NOT_FOUND`: as [`Backoff::next`], but at most 500 ms for the first ten attempts. A sidecar
    /// may start before the control plane has seen its Pod.
    pub(crate) fn next_early(&mut self, jitter: f64) -> Duration {
        let is_early = self.failures < EARLY_ATTEMPTS;
        let wait = self.next(jitter);
        if is_early { wait.min(EARLY_MAX) } else { wait }
    }

    /// Returns the backoff after a working connection is lost: up to 2 s, because all proxies of the replica reconnect.
    pub(crate) fn lost(&mut self, jitter: f64) -> Duration {
        self.failures = self.failures.saturating_add(LOST);
        SPREAD.mul_f64(jitter.clamp(0.0, 1.0))
    }

    /// Resets the backoff after a success.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_up_to_the_limit_and_starts_over_after_a_success() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..10).map(|_| backoff.next(1.0)).collect();
        assert_eq!(waits[..3], [100, 200, 400].map(Duration::from_millis));
        assert_eq!(waits[9], MAX);
        backoff.reset();
        assert_eq!(backoff.next(0.0), FIRST / 2);
    }

    /// Simulates 1,000 proxies that lose the control plane at the same time. Returns the largest number of attempts within
    /// 100 ms, during the `outage` and after it, and the time from its end to the last reconnection.
    fn storm(outage: Duration) -> (usize, usize, Duration) {
        let mut random = fastrand::Rng::with_seed(7);
        let mut slots = std::collections::BTreeMap::<u128, usize>::new();
        let mut last = Duration::ZERO;
        for _ in 0..1000 {
            let mut backoff = Backoff::default();
            let mut now = backoff.lost(random.f64());
            loop {
                *slots.entry(now.as_millis() / 100).or_default() += 1;
                if now >= outage {
                    break;
                }
                now += backoff.next(random.f64());
            }
            last = last.max(now);
        }
        let recovery = outage.as_millis() / 100;
        let busiest = |slots: &mut dyn Iterator<Item = (&u128, &usize)>| slots.map(|(_, count)| *count).max();
        let before = busiest(&mut slots.range(..recovery)).unwrap_or_default();
        let after = busiest(&mut slots.range(recovery..)).unwrap_or_default();
        (before, after, last.saturating_sub(outage))
    }

    #[test]
    fn reconnections_of_a_thousand_proxies_are_spread() {
        let (_, after, last) = storm(Duration::ZERO);
        assert!(after <= 80, "{after} within 100 ms, spread evenly it is 50");
        assert!(last <= SPREAD);
        for seconds in [3, 10, 60, 600] {
            let (before, after, last) = storm(Duration::from_secs(seconds));
            assert!(
                before <= 160 && after <= 120,
                "{seconds} s: {before}, {after} within 100 ms"
            );
            assert!(last <= MAX, "{seconds} s: {last:?} until the last one");
        }
    }

    #[test]
    fn unknown_proxy_retries_early_for_a_limited_number_of_times() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..12).map(|_| backoff.next_early(1.0)).collect();
        assert_eq!(waits[..3], [100, 200, 400].map(Duration::from_millis));
        assert!(waits[3..10].iter().all(|wait| *wait == EARLY_MAX), "{waits:?}");
        assert_eq!(waits[10..], [MAX; 2]);
    }
}
