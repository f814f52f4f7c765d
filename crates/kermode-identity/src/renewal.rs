//! Timer of the sidecar agent's certificate requests. No IO.

use std::time::{Duration, SystemTime};

use crate::Validity;

/// Backoff after the first failure. Doubles with each consecutive failure.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
/// Upper bound of the backoff.
const MAX_BACKOFF: Duration = Duration::from_secs(10);
/// Pause between requests while mTLS is disabled in the mesh, unless Envoy waits for a certificate.
const MTLS_DISABLED_PAUSE: Duration = Duration::from_mins(1);
/// Proxies renew earlier than [`Validity::renew_at`] by a random time, so that proxies that started together renew at
/// different times. The validity divided by this number is the maximum of the random time.
const SPREAD_DIVISOR: u32 = 10;
/// Minimum time between the arrival of a certificate and its renewal. Only a change of the CA or of the
/// certificate's names may cause an earlier renewal ([`RenewalTimer::renew_within`]). Limits the request rate if the clocks of the sidecar and the
/// control plane differ by more than a lifetime.
const MIN_INTERVAL: Duration = Duration::from_secs(1);

/// Next step of the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenewalStep {
    /// Request a certificate now.
    Request,
    /// Wait this long.
    Wait(Duration),
}

/// Class of a certificate's remaining lifetime, for warnings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RemainingLifetime {
    /// At least a tenth of the validity.
    Sufficient,
    /// Less than a tenth of the validity. Contains the remaining lifetime.
    Short(Duration),
    /// The certificate has expired.
    Expired,
}

/// Timer of the certificate requests of one proxy. The first request is due immediately. Each renewal is due at a
/// random moment between 7/10 and 4/5 of the certificate's validity. Failed requests are retried with backoff.
#[derive(Clone, Debug)]
pub struct RenewalTimer {
    /// Time of the next request.
    due: SystemTime,
    /// Upper bound of the wait until the next request, in case the clock is set back.
    max_wait: Duration,
    /// Number of consecutive failures.
    failures: u32,
    /// Whether the last request found that mTLS is disabled in the mesh.
    is_mtls_disabled: bool,
    /// Whether Envoy waits for a certificate.
    is_envoy_waiting: bool,
}

impl RenewalTimer {
    /// Returns the timer of a proxy without a certificate: a request is due immediately.
    pub fn new(now: SystemTime) -> Self {
        Self {
            due: now,
            max_wait: Duration::MAX,
            failures: 0,
            is_mtls_disabled: false,
            is_envoy_waiting: false,
        }
    }

    /// Returns the next step at `now`. A clock that is set back does not prolong a pause. It postpones the renewal of a
    /// valid certificate, which then stays valid for longer, too.
    pub fn next_step(&mut self, now: SystemTime) -> RenewalStep {
        if let Some(latest) = now.checked_add(self.max_wait) {
            self.due = self.due.min(latest);
        }
        match self.due.duration_since(now) {
            Ok(wait) if !wait.is_zero() => RenewalStep::Wait(wait),
            _ => RenewalStep::Request,
        }
    }

    /// Handles a new certificate. `jitter` is between 0 and 1.
    pub fn on_issued(&mut self, validity: Validity, now: SystemTime, jitter: f64) {
        let span = validity.not_after.duration_since(validity.not_before);
        let early = (span.unwrap_or_default() / SPREAD_DIVISOR).mul_f64(jitter.clamp(0.0, 1.0));
        *self = Self::new((validity.renew_at() - early).max(now + MIN_INTERVAL));
    }

    /// Handles a change of the CA or of the certificate's names: schedules a renewal within `window`, at the fraction `jitter` (between 0 and 1) of
    /// the window, unless a request is due earlier.
    pub fn renew_within(&mut self, window: Duration, now: SystemTime, jitter: f64) {
        self.due = self.due.min(now + window.mul_f64(jitter.clamp(0.0, 1.0)));
        self.max_wait = self.max_wait.min(window);
    }

    /// Handles a failed request. The pause is 50 % to 100 % of the backoff; `jitter` is between 0 and 1.
    pub fn on_failure(&mut self, now: SystemTime, jitter: f64) {
        let backoff = FIRST_BACKOFF
            .saturating_mul(1 << self.failures.min(16))
            .min(MAX_BACKOFF);
        self.failures = self.failures.saturating_add(1);
        self.is_mtls_disabled = false;
        self.due = now + backoff.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0);
        self.max_wait = backoff;
    }

    /// Handles a request that found mTLS disabled in the mesh: the next request follows after a long pause. If Envoy
    /// waits for a certificate, the request counts as failed instead, because Envoy's configuration already has mTLS.
    pub fn on_mtls_disabled(&mut self, now: SystemTime, jitter: f64) {
        if self.is_envoy_waiting {
            self.on_failure(now, jitter);
        } else {
            *self = Self {
                is_mtls_disabled: true,
                max_wait: MTLS_DISABLED_PAUSE,
                ..Self::new(now + MTLS_DISABLED_PAUSE)
            };
        }
    }

    /// Records that Envoy waits for a certificate. Ends the long pause of [`RenewalTimer::on_mtls_disabled`], and
    /// prevents further long pauses until a certificate is issued.
    pub fn on_envoy_waiting(&mut self, now: SystemTime) {
        if self.is_mtls_disabled {
            *self = Self::new(now);
        }
        self.is_envoy_waiting = true;
    }
}

impl RemainingLifetime {
    /// Classifies the remaining lifetime at `now`.
    pub fn of(validity: Validity, now: SystemTime) -> Self {
        let span = validity.not_after.duration_since(validity.not_before);
        match validity.not_after.duration_since(now) {
            Ok(left) if left < span.unwrap_or_default() / 10 => Self::Short(left),
            Ok(_) => Self::Sufficient,
            Err(_) => Self::Expired,
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
    fn first_request_is_due_immediately_and_the_renewal_at_four_fifths_of_the_validity() {
        let mut timer = RenewalTimer::new(at(1000));
        assert_eq!(timer.next_step(at(1000)), RenewalStep::Request);
        timer.on_issued(Validity::from_unix(1000, 2000), at(1010), 0.0);
        assert_eq!(
            timer.next_step(at(1010)),
            RenewalStep::Wait(Duration::from_secs(790))
        );
        assert_eq!(timer.next_step(at(1800)), RenewalStep::Request);
    }

    #[test]
    fn backoff_grows_to_a_limit_and_a_success_resets_it() {
        let mut timer = RenewalTimer::new(at(0));
        let mut waits = Vec::new();
        for _ in 0..12 {
            timer.on_failure(at(0), 1.0);
            match timer.next_step(at(0)) {
                RenewalStep::Wait(wait) => waits.push(wait),
                RenewalStep::Request => panic!("a request is due immediately after a failure"),
            }
        }
        assert_eq!(waits[0], FIRST_BACKOFF);
        assert!(waits.is_sorted());
        assert_eq!(waits.last(), Some(&MAX_BACKOFF));
        timer.on_issued(Validity::from_unix(0, 100), at(1), 0.0);
        timer.on_failure(at(80), 0.0);
        assert_eq!(timer.next_step(at(80)), RenewalStep::Wait(FIRST_BACKOFF / 2));
    }

    #[test]
    fn sidecar_whose_clock_is_far_ahead_does_not_cause_a_request_storm() {
        let mut timer = RenewalTimer::new(at(9_000_000));
        timer.on_issued(Validity::from_unix(1000, 2000), at(9_000_000), 1.0);
        assert_eq!(timer.next_step(at(9_000_000)), RenewalStep::Wait(MIN_INTERVAL));
    }

    #[test]
    fn clock_that_is_set_back_does_not_prolong_a_pause() {
        let day = 86_400;
        let mut after_failure = RenewalTimer::new(at(day));
        after_failure.on_failure(at(day), 1.0);
        let mut without_mtls = RenewalTimer::new(at(day));
        without_mtls.on_mtls_disabled(at(day), 1.0);
        let mut with_new_ca = RenewalTimer::new(at(day));
        with_new_ca.on_issued(Validity::from_unix(86_400, 3 * 86_400), at(day), 0.0);
        with_new_ca.renew_within(MTLS_DISABLED_PAUSE, at(day), 1.0);
        for (mut timer, pause) in [
            (after_failure, FIRST_BACKOFF),
            (without_mtls, MTLS_DISABLED_PAUSE),
            (with_new_ca, MTLS_DISABLED_PAUSE),
        ] {
            assert_eq!(timer.next_step(at(0)), RenewalStep::Wait(pause));
            assert_eq!(timer.next_step(at(0) + pause), RenewalStep::Request);
        }
    }

    #[test]
    fn clock_that_is_set_forward_past_the_expiry_causes_a_request_at_once() {
        let mut timer = RenewalTimer::new(at(1000));
        timer.on_issued(Validity::from_unix(1000, 2000), at(1000), 0.0);
        assert_eq!(timer.next_step(at(9_000_000)), RenewalStep::Request);
    }

    #[test]
    fn mesh_without_mtls_is_polled_slowly_until_envoy_waits_for_a_certificate() {
        let mut timer = RenewalTimer::new(at(0));
        timer.on_mtls_disabled(at(0), 1.0);
        assert_eq!(timer.next_step(at(1)), RenewalStep::Wait(Duration::from_secs(59)));
        timer.on_envoy_waiting(at(1));
        assert_eq!(timer.next_step(at(1)), RenewalStep::Request);
        timer.on_mtls_disabled(at(1), 1.0);
        assert_eq!(timer.next_step(at(1)), RenewalStep::Wait(FIRST_BACKOFF));
    }

    #[test]
    fn envoy_that_waits_for_a_certificate_does_not_shorten_a_backoff() {
        let mut timer = RenewalTimer::new(at(0));
        timer.on_failure(at(0), 1.0);
        timer.on_envoy_waiting(at(0));
        assert_eq!(timer.next_step(at(0)), RenewalStep::Wait(FIRST_BACKOFF));
    }

    #[test]
    fn jitter_spreads_renewals_over_a_tenth_of_the_validity() {
        let mut timer = RenewalTimer::new(at(1000));
        timer.on_issued(Validity::from_unix(1000, 2000), at(1000), 1.0);
        assert_eq!(
            timer.next_step(at(1000)),
            RenewalStep::Wait(Duration::from_secs(700))
        );
        timer.on_issued(Validity::from_unix(1000, 2000), at(1000), 0.5);
        assert_eq!(
            timer.next_step(at(1000)),
            RenewalStep::Wait(Duration::from_secs(750))
        );
    }

    #[test]
    fn change_of_the_ca_never_postpones_the_renewal() {
        let mut timer = RenewalTimer::new(at(1000));
        timer.on_issued(Validity::from_unix(1000, 2000), at(1000), 0.0);
        timer.renew_within(Duration::from_secs(100), at(1000), 0.5);
        assert_eq!(
            timer.next_step(at(1000)),
            RenewalStep::Wait(Duration::from_secs(50))
        );
        timer.renew_within(Duration::from_secs(100), at(1000), 0.9);
        assert_eq!(
            timer.next_step(at(1000)),
            RenewalStep::Wait(Duration::from_secs(50))
        );
    }

    #[test]
    fn requests_continue_during_an_outage_and_after_expiry() {
        let validity = Validity::from_unix(0, 1000);
        let mut timer = RenewalTimer::new(at(0));
        timer.on_issued(validity, at(0), 0.0);
        let mut now = at(800);
        let mut attempts = 0;
        let mut classes = Vec::new();
        while now < at(1100) {
            match timer.next_step(now) {
                RenewalStep::Wait(wait) => now += wait,
                RenewalStep::Request => {
                    attempts += 1;
                    let remaining = match RemainingLifetime::of(validity, now) {
                        RemainingLifetime::Short(_) => "short",
                        RemainingLifetime::Sufficient => "sufficient",
                        RemainingLifetime::Expired => "expired",
                    };
                    if classes.last() != Some(&remaining) {
                        classes.push(remaining);
                    }
                    timer.on_failure(now, 0.5);
                }
            }
        }
        assert_eq!(classes, ["sufficient", "short", "expired"]);
        // One attempt every 7.5 s once the backoff is at its limit.
        assert!((40..60).contains(&attempts), "{attempts}");
    }
}
