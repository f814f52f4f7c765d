//! How long to wait before trying again: doubling, bounded, jittered. No clock and no randomness of its own.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(10);
/// While the control plane does not know the proxy yet, which is a matter of moments,
const SOON: Duration = Duration::from_millis(500);
/// and this many times.
const EARLY: u32 = 10;

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

    #[test]
    fn a_proxy_that_is_not_known_yet_asks_again_soon_but_not_for_ever() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..12).map(|_| backoff.next_early(1.0)).collect();
        assert_eq!(waits[..3], [100, 200, 400].map(Duration::from_millis));
        assert!(waits[3..10].iter().all(|wait| *wait == SOON), "{waits:?}");
        assert_eq!(waits[10..], [LONGEST; 2]);
    }
}
