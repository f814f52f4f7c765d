//! When to ask for the next certificate: a state machine without IO, for `kuma-dp`.

use std::time::{Duration, SystemTime};

use crate::Validity;

/// Wait after the first failure in a row; doubles with each further one.
const FIRST_RETRY: Duration = Duration::from_millis(100);
/// Longest wait after a failure: short against the fifth of a lifetime that is left when renewal begins.
const LONGEST_RETRY: Duration = Duration::from_secs(10);
/// Wait after an answer that will not change soon (mTLS is off in the mesh), unless somebody asks.
const DECLINED_RETRY: Duration = Duration::from_mins(1);
/// Renewal is due this part of the span before 4/5 of it at the earliest: proxies that started together spread.
const SPREAD: u32 = 10;
/// Never renew sooner than this after a success, whatever the clocks say: two clocks that disagree by more than a
/// lifetime must not turn into a storm of requests.
const SHORTEST_LIFE: Duration = Duration::from_secs(1);

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Ask for a certificate now.
    Renew,
    /// Nothing to do for this long.
    Wait(Duration),
}

/// How long a certificate still is good for, as its owner should see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Remaining {
    /// Long enough.
    Enough,
    /// Less than a tenth of its span: its renewal has failed for a while.
    Little(Duration),
    /// It has expired.
    Nothing,
}

/// Decides when a certificate is asked for: at once, then between 7/10 and 4/5 of each one's span, with back-off on
/// failure.
#[derive(Clone, Debug)]
pub struct Rotation {
    due: SystemTime,
    failures: u32,
    declined: bool,
    wanted: bool,
}

impl Rotation {
    /// Nothing is held yet: due at once.
    pub fn new(now: SystemTime) -> Self {
        Self {
            due: now,
            failures: 0,
            declined: false,
            wanted: false,
        }
    }

    /// What to do at `now`.
    pub fn next(&self, now: SystemTime) -> Step {
        match self.due.duration_since(now) {
            Ok(wait) if !wait.is_zero() => Step::Wait(wait),
            _ => Step::Renew,
        }
    }

    /// A certificate was received. `jitter`, between 0 and 1, spreads proxies that received theirs together.
    pub fn issued(&mut self, validity: Validity, now: SystemTime, jitter: f64) {
        let span = validity.not_after.duration_since(validity.not_before);
        let early = (span.unwrap_or_default() / SPREAD).mul_f64(jitter.clamp(0.0, 1.0));
        *self = Self::new((validity.renew_at() - early).max(now + SHORTEST_LIFE));
    }

    /// The certificate shall be replaced within that time, at the moment that `jitter`, between 0 and 1, makes of it;
    /// or when it is due anyhow, if that is sooner.
    pub fn renew_within(&mut self, window: Duration, now: SystemTime, jitter: f64) {
        self.due = self.due.min(now + window.mul_f64(jitter.clamp(0.0, 1.0)));
    }

    /// The request failed. `jitter`, between 0 and 1, spreads proxies that failed at the same moment: the wait is
    /// between half and all of the back-off.
    pub fn failed(&mut self, now: SystemTime, jitter: f64) {
        let backoff = FIRST_RETRY
            .saturating_mul(1 << self.failures.min(16))
            .min(LONGEST_RETRY);
        self.failures = self.failures.saturating_add(1);
        self.declined = false;
        self.due = now + backoff.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0);
    }

    /// The answer was that there are no certificates to be had (mTLS is off): ask again, but slowly. Once somebody
    /// has wanted one it is a failure like any other: one part of the control plane is ahead of the other.
    pub fn declined(&mut self, now: SystemTime, jitter: f64) {
        if self.wanted {
            self.failed(now, jitter);
        } else {
            *self = Self {
                declined: true,
                ..Self::new(now + DECLINED_RETRY)
            };
        }
    }

    /// Somebody needs the certificate: a slow wait after [`Rotation::declined`] ends, and there will be no other.
    pub fn wanted(&mut self, now: SystemTime) {
        if self.declined {
            *self = Self::new(now);
        }
        self.wanted = true;
    }
}

impl Remaining {
    /// Of a certificate at `now`.
    pub fn of(validity: Validity, now: SystemTime) -> Self {
        let span = validity.not_after.duration_since(validity.not_before);
        match validity.not_after.duration_since(now) {
            Ok(left) if left < span.unwrap_or_default() / 10 => Self::Little(left),
            Ok(_) => Self::Enough,
            Err(_) => Self::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn the_first_certificate_is_due_at_once_and_the_next_at_four_fifths() {
        let mut rotation = Rotation::new(at(1000));
        assert_eq!(rotation.next(at(1000)), Step::Renew);
        rotation.issued(Validity::from_unix(1000, 2000), at(1010), 0.0);
        assert_eq!(rotation.next(at(1010)), Step::Wait(Duration::from_secs(790)));
        assert_eq!(rotation.next(at(1800)), Step::Renew);
    }

    #[test]
    fn failures_back_off_to_a_limit_and_a_success_resets_them() {
        let mut rotation = Rotation::new(at(0));
        let mut waits = Vec::new();
        for _ in 0..12 {
            rotation.failed(at(0), 1.0);
            match rotation.next(at(0)) {
                Step::Wait(wait) => waits.push(wait),
                Step::Renew => panic!("no wait after a failure"),
            }
        }
        assert_eq!(waits[0], FIRST_RETRY);
        assert!(waits.is_sorted());
        assert_eq!(waits.last(), Some(&LONGEST_RETRY));
        rotation.issued(Validity::from_unix(0, 100), at(1), 0.0);
        rotation.failed(at(80), 0.0);
        assert_eq!(rotation.next(at(80)), Step::Wait(FIRST_RETRY / 2));
    }

    #[test]
    fn a_clock_far_ahead_does_not_cause_a_storm() {
        let mut rotation = Rotation::new(at(9_000_000));
        rotation.issued(Validity::from_unix(1000, 2000), at(9_000_000), 1.0);
        assert_eq!(rotation.next(at(9_000_000)), Step::Wait(SHORTEST_LIFE));
    }

    #[test]
    fn a_mesh_without_mtls_is_asked_slowly_until_somebody_wants_a_certificate() {
        let mut rotation = Rotation::new(at(0));
        rotation.declined(at(0), 1.0);
        assert_eq!(rotation.next(at(1)), Step::Wait(Duration::from_secs(59)));
        rotation.wanted(at(1));
        assert_eq!(rotation.next(at(1)), Step::Renew);
        rotation.declined(at(1), 1.0);
        assert_eq!(rotation.next(at(1)), Step::Wait(FIRST_RETRY));
    }

    #[test]
    fn wanting_a_certificate_does_not_shorten_a_back_off() {
        let mut rotation = Rotation::new(at(0));
        rotation.failed(at(0), 1.0);
        rotation.wanted(at(0));
        assert_eq!(rotation.next(at(0)), Step::Wait(FIRST_RETRY));
    }

    #[test]
    fn proxies_that_started_together_renew_over_a_tenth_of_the_span() {
        let mut rotation = Rotation::new(at(1000));
        rotation.issued(Validity::from_unix(1000, 2000), at(1000), 1.0);
        assert_eq!(rotation.next(at(1000)), Step::Wait(Duration::from_secs(700)));
        rotation.issued(Validity::from_unix(1000, 2000), at(1000), 0.5);
        assert_eq!(rotation.next(at(1000)), Step::Wait(Duration::from_secs(750)));
    }

    #[test]
    fn a_change_of_the_ca_brings_renewal_forward_and_never_back() {
        let mut rotation = Rotation::new(at(1000));
        rotation.issued(Validity::from_unix(1000, 2000), at(1000), 0.0);
        rotation.renew_within(Duration::from_secs(100), at(1000), 0.5);
        assert_eq!(rotation.next(at(1000)), Step::Wait(Duration::from_secs(50)));
        rotation.renew_within(Duration::from_secs(100), at(1000), 0.9);
        assert_eq!(rotation.next(at(1000)), Step::Wait(Duration::from_secs(50)));
    }

    #[test]
    fn a_control_plane_that_is_away_is_asked_until_the_end_and_after_it() {
        let validity = Validity::from_unix(0, 1000);
        let mut rotation = Rotation::new(at(0));
        rotation.issued(validity, at(0), 0.0);
        let mut now = at(800);
        let mut attempts = 0;
        let mut seen = Vec::new();
        while now < at(1100) {
            match rotation.next(now) {
                Step::Wait(wait) => now += wait,
                Step::Renew => {
                    attempts += 1;
                    let remaining = match Remaining::of(validity, now) {
                        Remaining::Little(_) => "little",
                        Remaining::Enough => "enough",
                        Remaining::Nothing => "nothing",
                    };
                    if seen.last() != Some(&remaining) {
                        seen.push(remaining);
                    }
                    rotation.failed(now, 0.5);
                }
            }
        }
        assert_eq!(seen, ["enough", "little", "nothing"]);
        // Every 7.5 s once the back-off is at its longest.
        assert!((40..60).contains(&attempts), "{attempts}");
    }
}
