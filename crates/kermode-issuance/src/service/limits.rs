//! How many certificates are issued, in all and to one proxy. No IO, the clock passed in.
//!
//! A thousand Pods that start at once pass; a proxy that asks in a loop does not, and costs no review of its token.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

/// Certificates a second for everybody. Each costs about 0.2 ms, so this is a tenth of a core.
const TOTAL: Rate = Rate {
    burst: 2000.0,
    per_second: 500.0,
};
/// Certificates a second for one proxy, whose sidecar asks for one in 48 s at most, and a few more after a restart.
const EACH: Rate = Rate {
    burst: 20.0,
    per_second: 1.0 / 3.0,
};
/// Proxies remembered before those are forgotten that have asked for nothing for a while.
const MANY: usize = 1024;

/// Which bound was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exceeded {
    /// That of the caller.
    Each,
    /// That of all together.
    Total,
}

/// Who asks: the token that he has, and never the name that he says. Not reversible, not the same in another process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Caller(u64);

/// The bounds.
#[derive(Debug)]
pub(super) struct Limits {
    hasher: RandomState,
    total: Bucket,
    callers: HashMap<Caller, Bucket>,
    forget_at: usize,
}

#[derive(Clone, Copy, Debug)]
struct Rate {
    burst: f64,
    per_second: f64,
}

#[derive(Clone, Debug)]
struct Bucket {
    left: f64,
    at: Instant,
}

// === impl Limits ===

impl Limits {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            hasher: RandomState::new(),
            total: Bucket::full(TOTAL, now),
            callers: HashMap::new(),
            forget_at: MANY,
        }
    }

    /// The caller with that token.
    pub(super) fn caller(&self, token: &[u8]) -> Caller {
        Caller(self.hasher.hash_one(token))
    }

    /// Whether a caller who has proven himself before may ask now. Strangers may: nothing is known of them.
    pub(super) fn check(&mut self, caller: Caller, now: Instant) -> Result<(), Exceeded> {
        let known = self.callers.get_mut(&caller);
        if known.is_none_or(|bucket| bucket.has_one(EACH, now)) {
            Ok(())
        } else {
            Err(Exceeded::Each)
        }
    }

    /// Counts a request of a caller who has proven himself.
    pub(super) fn take(&mut self, caller: Caller, now: Instant) -> Result<(), Exceeded> {
        if self.callers.len() >= self.forget_at {
            self.callers.retain(|_, bucket| !bucket.is_full(EACH, now));
            self.forget_at = MANY.max(2 * self.callers.len());
        }
        let bucket = self
            .callers
            .entry(caller)
            .or_insert_with(|| Bucket::full(EACH, now));
        if !bucket.take(EACH, now) {
            return Err(Exceeded::Each);
        }
        if !self.total.take(TOTAL, now) {
            return Err(Exceeded::Total);
        }
        Ok(())
    }
}

// === impl Bucket ===

impl Bucket {
    fn full(rate: Rate, now: Instant) -> Self {
        Self {
            left: rate.burst,
            at: now,
        }
    }

    fn refill(&mut self, rate: Rate, now: Instant) {
        let since = now
            .saturating_duration_since(self.at)
            .min(Duration::from_hours(1));
        self.left = (self.left + since.as_secs_f64() * rate.per_second).min(rate.burst);
        self.at = self.at.max(now);
    }

    fn has_one(&mut self, rate: Rate, now: Instant) -> bool {
        self.refill(rate, now);
        self.left >= 1.0
    }

    fn take(&mut self, rate: Rate, now: Instant) -> bool {
        let has = self.has_one(rate, now);
        if has {
            self.left -= 1.0;
        }
        has
    }

    fn is_full(&mut self, rate: Rate, now: Instant) -> bool {
        self.refill(rate, now);
        self.left >= rate.burst
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_thousand_proxies_at_once_pass_and_a_flood_of_them_is_bounded() {
        let now = Instant::now();
        let mut limits = Limits::new(now);
        let issued = |limits: &mut Limits, from: u32, count: u32, now| {
            let callers = (from..from + count).map(|number| limits.caller(&number.to_le_bytes()));
            let callers: Vec<_> = callers.collect();
            let taken = callers
                .into_iter()
                .filter(|caller| limits.take(*caller, now).is_ok());
            taken.count()
        };
        assert_eq!(issued(&mut limits, 0, 1000, now), 1000);
        assert_eq!(issued(&mut limits, 1000, 5000, now), 1000);
        assert_eq!(issued(&mut limits, 9000, 5000, now + SECOND), 500);
        let caller = limits.caller(b"one more");
        assert_eq!(limits.take(caller, now + SECOND), Err(Exceeded::Total));
    }

    #[test]
    fn a_proxy_in_a_loop_is_refused_and_others_are_not() {
        let now = Instant::now();
        let mut limits = Limits::new(now);
        let (greedy, other) = (limits.caller(b"greedy"), limits.caller(b"other"));
        let taken = (0..100).filter(|_| limits.take(greedy, now).is_ok()).count();
        assert_eq!(taken, 20);
        assert_eq!(limits.check(greedy, now), Err(Exceeded::Each));
        assert_eq!(limits.check(other, now), Ok(()));
        assert_eq!(limits.take(other, now), Ok(()));
        assert_eq!(limits.check(greedy, now + 2 * SECOND), Err(Exceeded::Each));
        assert_eq!(limits.take(greedy, now + 3 * SECOND), Ok(()));
    }

    #[test]
    fn proxies_that_ask_no_more_are_forgotten() {
        let mut now = Instant::now();
        let mut limits = Limits::new(now);
        for number in 0..100_000_u32 {
            let caller = limits.caller(&number.to_le_bytes());
            limits.take(caller, now).expect("there is room");
            now += Duration::from_millis(10);
        }
        assert!(limits.callers.len() <= 2 * MANY, "{}", limits.callers.len());
    }
}
