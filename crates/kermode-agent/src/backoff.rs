//! Backoff of calls to the control plane: exponential, bounded, with jitter. Pure: the caller sleeps and passes in the
//! jitter.

use std::time::Duration;

/// Backoff after the first failure.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
/// Upper bound of the backoff.
const MAX_BACKOFF: Duration = Duration::from_secs(10);
/// Upper bound of the backoff while the control plane has not seen the Pod. The control plane's watch delivers a new
/// Pod within a second.
const MAX_EARLY_BACKOFF: Duration = Duration::from_millis(500);
/// Number of attempts that [`MAX_EARLY_BACKOFF`] applies to.
const EARLY_ATTEMPTS: u32 = 10;
/// Time span over which the proxies of a failed replica spread their first reconnection. These proxies have
/// configuration and certificates, so reconnecting is not urgent.
const RECONNECTION_SPREAD: Duration = Duration::from_secs(2);
/// Number of failures that one lost connection counts as. If the reconnection fails too, the next backoff is up to
/// 800 ms.
const FAILURES_PER_LOSS: u32 = 3;

/// State of the backoff: the number of consecutive failures. A lost connection counts as [`FAILURES_PER_LOSS`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Returns the backoff after a failure: 50 % to 100 % of 100 ms, doubled per failure, at most 10 s. `jitter` is
    /// between 0 and 1.
    pub(crate) fn next(&mut self, jitter: f64) -> Duration {
        let full = FIRST_BACKOFF
            .saturating_mul(1 << self.failures.min(16))
            .min(MAX_BACKOFF);
        self.failures = self.failures.saturating_add(1);
        full.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0)
    }

    /// Returns the backoff after `NOT_FOUND`: like [`Backoff::next`], but at most 500 ms for the first ten attempts. A
    /// sidecar may start before the control plane has seen its Pod.
    pub(crate) fn next_after_not_found(&mut self, jitter: f64) -> Duration {
        let is_early = self.failures < EARLY_ATTEMPTS;
        let backoff = self.next(jitter);
        if is_early {
            backoff.min(MAX_EARLY_BACKOFF)
        } else {
            backoff
        }
    }

    /// Returns the backoff after a working connection is lost: between 0 and 2 s, because all proxies of the replica
    /// reconnect.
    pub(crate) fn next_after_loss(&mut self, jitter: f64) -> Duration {
        self.failures = self.failures.saturating_add(FAILURES_PER_LOSS);
        RECONNECTION_SPREAD.mul_f64(jitter.clamp(0.0, 1.0))
    }

    /// Resets the backoff after a success.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn backoff_doubles_up_to_the_limit_and_starts_over_after_a_success() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..10).map(|_| backoff.next(1.0)).collect();
        assert_eq!(waits[..3], [100, 200, 400].map(Duration::from_millis));
        assert_eq!(waits[9], MAX_BACKOFF);
        backoff.reset();
        assert_eq!(backoff.next(0.0), FIRST_BACKOFF / 2);
    }

    /// Reconnections of many proxies that lost the control plane at the same time.
    struct Storm {
        /// Largest number of attempts within 100 ms during the outage.
        peak_during_outage: usize,
        /// Largest number of attempts within 100 ms after the outage.
        peak_after_outage: usize,
        /// Time from the end of the outage to the last reconnection.
        recovery: Duration,
    }

    /// Simulates 1,000 proxies that lose the control plane at the same time, for the duration of `outage`.
    fn simulate_storm(outage: Duration) -> Storm {
        let mut random = fastrand::Rng::with_seed(7);
        // Number of attempts by time, in units of 100 ms.
        let mut attempts = BTreeMap::<u128, usize>::new();
        let mut last_reconnection = Duration::ZERO;
        for _ in 0..1000 {
            let mut backoff = Backoff::default();
            let mut now = backoff.next_after_loss(random.f64());
            loop {
                *attempts.entry(now.as_millis() / 100).or_default() += 1;
                if now >= outage {
                    break;
                }
                now += backoff.next(random.f64());
            }
            last_reconnection = last_reconnection.max(now);
        }
        let after_outage = attempts.split_off(&(outage.as_millis() / 100));
        let peak = |attempts: BTreeMap<u128, usize>| attempts.into_values().max().unwrap_or_default();
        Storm {
            peak_during_outage: peak(attempts),
            peak_after_outage: peak(after_outage),
            recovery: last_reconnection.saturating_sub(outage),
        }
    }

    #[test]
    fn reconnections_of_a_thousand_proxies_are_spread() {
        let storm = simulate_storm(Duration::ZERO);
        let peak = storm.peak_after_outage;
        assert!(peak <= 80, "{peak} attempts within 100 ms; 50 if spread evenly");
        assert!(storm.recovery <= RECONNECTION_SPREAD);
        for seconds in [3, 10, 60, 600] {
            let Storm {
                peak_during_outage,
                peak_after_outage,
                recovery,
            } = simulate_storm(Duration::from_secs(seconds));
            assert!(
                peak_during_outage <= 160 && peak_after_outage <= 120,
                "outage of {seconds} s: {peak_during_outage} attempts within 100 ms during the outage, \
                 {peak_after_outage} within 100 ms after it"
            );
            assert!(
                recovery <= MAX_BACKOFF,
                "outage of {seconds} s: the last proxy reconnected {recovery:?} after the outage"
            );
        }
    }

    #[test]
    fn backoff_after_not_found_is_short_for_ten_attempts() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..12).map(|_| backoff.next_after_not_found(1.0)).collect();
        assert_eq!(waits[..3], [100, 200, 400].map(Duration::from_millis));
        assert!(
            waits[3..10].iter().all(|wait| *wait == MAX_EARLY_BACKOFF),
            "{waits:?}"
        );
        assert_eq!(waits[10..], [MAX_BACKOFF; 2]);
    }
}
