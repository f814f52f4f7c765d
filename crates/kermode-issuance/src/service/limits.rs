//! Limits on the rate of issued certificates, per proxy and in total, and of opened streams of roots, per proxy.
//!
//! A thousand Pods that start at once get their certificates without delay. If a proxy requests certificates in a loop,
//! its surplus requests are denied before they cause a TokenReview.

use std::time::Instant;

use kermode_limit::caller::{CallerId, CallerIds};
use kermode_limit::rate::{KeyedRateLimit, Rate, TokenBucket};

use crate::denial::Denial;

/// Maximum rate of certificates for all proxies together. A certificate takes about 0.2 ms of CPU time, so 500
/// certificates per second take a tenth of a core.
const TOTAL_RATE: Rate = Rate {
    burst: 2000.0,
    per_second: 500.0,
};
/// Maximum rate of certificates for one proxy. A certificate with the shortest lifetime (one minute) is renewed 40 s
/// after its issuance at the earliest. A sidecar requests a few more certificates after a restart.
const PROXY_RATE: Rate = Rate {
    burst: 20.0,
    per_second: 1.0 / 3.0,
};

/// Maximum rate of streams of roots that one proxy opens. A sidecar keeps one stream open. After failures, its backoff
/// grows to 10 s. Each stream costs a TokenReview.
const STREAM_RATE: Rate = PROXY_RATE;

/// Rate limit that a request exceeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RateExceeded {
    /// Rate limit of the caller.
    PerCaller,
    /// Rate limit of all callers together.
    Total,
    /// Rate limit of the caller's streams of roots.
    Streams,
}

/// Call of the issuance service whose rate is limited for each caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LimitedCall {
    IssueCertificate,
    WatchRoots,
}

/// Rate limits of the issuance service.
#[derive(Debug)]
pub(super) struct IssuanceLimits {
    caller_ids: CallerIds,
    total: TokenBucket,
    callers: KeyedRateLimit<CallerId>,
    streams: KeyedRateLimit<CallerId>,
}

// === impl RateExceeded ===

impl From<RateExceeded> for Denial {
    fn from(exceeded: RateExceeded) -> Self {
        match exceeded {
            RateExceeded::PerCaller => Self::ProxyRate,
            RateExceeded::Total => Self::TotalRate,
            RateExceeded::Streams => Self::StreamRate,
        }
    }
}

// === impl IssuanceLimits ===

impl IssuanceLimits {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            caller_ids: CallerIds::default(),
            total: TokenBucket::new(TOTAL_RATE, now),
            callers: KeyedRateLimit::new(PROXY_RATE),
            streams: KeyedRateLimit::new(STREAM_RATE),
        }
    }

    /// Returns the ID of the caller with these credentials.
    pub(super) fn caller_id(&self, credentials: &[u8]) -> CallerId {
        self.caller_ids.of(credentials)
    }

    /// Checks the rate of a caller before its bearer token is reviewed. Unauthenticated callers always pass, because
    /// only calls of authenticated callers are counted ([`Self::take`], [`Self::take_stream`]).
    pub(super) fn check(
        &mut self,
        call: LimitedCall,
        caller: CallerId,
        now: Instant,
    ) -> Result<(), RateExceeded> {
        let (limit, exceeded) = match call {
            LimitedCall::IssueCertificate => (&mut self.callers, RateExceeded::PerCaller),
            LimitedCall::WatchRoots => (&mut self.streams, RateExceeded::Streams),
        };
        limit.has_token(&caller, now).then_some(()).ok_or(exceeded)
    }

    /// Counts a stream of roots that an authenticated caller opens. Returns an error if the rate limit is exceeded.
    pub(super) fn take_stream(&mut self, caller: CallerId, now: Instant) -> Result<(), RateExceeded> {
        let is_within_rate = self.streams.try_take(caller, now);
        is_within_rate.then_some(()).ok_or(RateExceeded::Streams)
    }

    /// Counts a certificate request of an authenticated caller. Returns an error if a rate limit is exceeded.
    pub(super) fn take(&mut self, caller: CallerId, now: Instant) -> Result<(), RateExceeded> {
        if !self.callers.try_take(caller, now) {
            return Err(RateExceeded::PerCaller);
        }
        if !self.total.try_take(now) {
            return Err(RateExceeded::Total);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn burst_of_a_thousand_proxies_passes_and_a_flood_is_bounded() {
        let now = Instant::now();
        let mut limits = IssuanceLimits::new(now);
        // Sends one request of each of `count` callers, and returns how many requests pass.
        let count_passed = |limits: &mut IssuanceLimits, first_caller: u32, count: u32, now| {
            let numbers = first_caller..first_caller + count;
            let callers = numbers.map(|number| limits.caller_id(&number.to_le_bytes()));
            let callers: Vec<_> = callers.collect();
            let passed = callers
                .into_iter()
                .filter(|caller| limits.take(*caller, now).is_ok());
            passed.count()
        };
        assert_eq!(count_passed(&mut limits, 0, 1000, now), 1000);
        assert_eq!(count_passed(&mut limits, 1000, 5000, now), 1000);
        assert_eq!(count_passed(&mut limits, 6000, 5000, now + SECOND), 500);
        let caller = limits.caller_id(b"surplus");
        assert_eq!(limits.take(caller, now + SECOND), Err(RateExceeded::Total));
    }

    #[test]
    fn proxy_that_requests_certificates_in_a_loop_is_limited_and_other_proxies_are_not() {
        let now = Instant::now();
        let mut limits = IssuanceLimits::new(now);
        let (greedy, other) = (limits.caller_id(b"greedy"), limits.caller_id(b"other"));
        let taken = (0..100).filter(|_| limits.take(greedy, now).is_ok()).count();
        assert_eq!(taken, 20);
        assert_eq!(
            limits.check(LimitedCall::IssueCertificate, greedy, now),
            Err(RateExceeded::PerCaller)
        );
        assert_eq!(limits.check(LimitedCall::IssueCertificate, other, now), Ok(()));
        assert_eq!(limits.check(LimitedCall::WatchRoots, greedy, now), Ok(()));
        assert_eq!(limits.take(other, now), Ok(()));
        assert_eq!(
            limits.check(LimitedCall::IssueCertificate, greedy, now + 2 * SECOND),
            Err(RateExceeded::PerCaller)
        );
        assert_eq!(limits.take(greedy, now + 3 * SECOND), Ok(()));
    }

    #[test]
    fn idle_callers_are_removed_from_memory() {
        let mut now = Instant::now();
        let mut limits = IssuanceLimits::new(now);
        for number in 0..100_000_u32 {
            let caller = limits.caller_id(&number.to_le_bytes());
            limits.take(caller, now).expect("below the limits");
            now += Duration::from_millis(10);
        }
        // Idle callers are removed whenever the number of callers has reached a threshold: 1024, or more while many
        // callers are active.
        assert!(
            limits.callers.key_count() <= 2 * 1024,
            "{}",
            limits.callers.key_count()
        );
    }
}
