//! How long to wait before trying again: doubling, bounded, jittered. No clock and no randomness of its own.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(10);
/// While the control plane does not know the proxy yet, which is a matter of moments,
const SOON: Duration = Duration::from_millis(500);
/// and this many times.
const EARLY: u32 = 10;
/// Over how long the proxies of a control plane that vanished spread their first attempt at another one. They have a
/// configuration and a certificate, so nothing is urgent for them.
const SPREAD: Duration = Duration::from_secs(2);
/// As how many failures that counts for the wait after the next one.
const LOST: u32 = 3;

/// The failures in a row so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The wait after one more failure: between half and all of 100 ms, doubled per failure, at most 10 s.
    /// `jitter`, between 0 and 1, spreads proxies that lost the same control plane.
    pub(crate) fn next(&mut self, jitter: f64) -> Duration {
        let full = FIRST.saturating_mul(1 << self.failures.min(16)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        full.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0)
    }

    /// The wait after the answer that the proxy is not known yet: like [`Backoff::next`], but at most 500 ms for the
    /// first ten times, so that a sidecar faster than the watch of its Pod joins as soon as it can.
    pub(crate) fn next_early(&mut self, jitter: f64) -> Duration {
        let is_early = self.failures < EARLY;
        let wait = self.next(jitter);
        if is_early { wait.min(SOON) } else { wait }
    }

    /// The wait after a connection that worked has broken: anything up to 2 s, since all proxies of that replica come at
    /// once.
    pub(crate) fn lost(&mut self, jitter: f64) -> Duration {
        self.failures = self.failures.saturating_add(LOST);
        SPREAD.mul_f64(jitter.clamp(0.0, 1.0))
    }

    /// It worked again.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_limit_and_start_over_after_a_success() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..10).map(|_| backoff.next(1.0)).collect();
        assert_eq!(waits[..3], [100, 200, 400].map(Duration::from_millis));
        assert_eq!(waits[9], LONGEST);
        backoff.reset();
        assert_eq!(backoff.next(0.0), FIRST / 2);
    }

    /// The attempts of 1,000 proxies that lost the control plane at once and find it again after `outage`: how many fell
    /// into the busiest 100 ms, before it came back and then, and when the last one found it.
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
        let back = outage.as_millis() / 100;
        let busiest = |slots: &mut dyn Iterator<Item = (&u128, &usize)>| slots.map(|(_, count)| *count).max();
        let before = busiest(&mut slots.range(..back)).unwrap_or_default();
        let after = busiest(&mut slots.range(back..)).unwrap_or_default();
        (before, after, last.saturating_sub(outage))
    }

    #[test]
    fn a_thousand_proxies_neither_storm_the_other_replicas_nor_the_first_one_that_is_back() {
        let (_, after, last) = storm(Duration::ZERO);
        assert!(after <= 80, "{after} within 100 ms, spread evenly it is 50");
        assert!(last <= SPREAD);
        for seconds in [3, 10, 60, 600] {
            let (before, after, last) = storm(Duration::from_secs(seconds));
            assert!(
                before <= 160 && after <= 120,
                "{seconds} s: {before}, {after} within 100 ms"
            );
            assert!(last <= LONGEST, "{seconds} s: {last:?} until the last one");
        }
    }

    #[test]
    fn a_proxy_that_is_not_known_yet_asks_again_soon_but_not_for_ever() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..12).map(|_| backoff.next_early(1.0)).collect();
        assert_eq!(waits[..3], [100, 200, 400].map(Duration::from_millis));
        assert!(waits[3..10].iter().all(|wait| *wait == SOON), "{waits:?}");
        assert_eq!(waits[10..], [LONGEST; 2]);
    }
}
