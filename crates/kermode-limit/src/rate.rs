//! Limits on rates: a token bucket, a token bucket per key, and a fixed window. No IO; the clock is passed in.
//!
//! [`TokenBucket`] and [`KeyedRateLimit`] bound work: a burst passes, then a steady rate. [`Window`] bounds log lines:
//! the number of lines per period is exact, and suppressed lines are counted.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// Maximum time for which one refill adds tokens. Every rate in use fills its bucket in less than this time.
const MAX_IDLE: Duration = Duration::from_hours(1);
/// Minimum number of keys at which full buckets are removed. With fewer keys, the scan would cost more than it frees.
const MIN_REMOVAL_THRESHOLD: usize = 1024;

/// Rate of a token bucket.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Number of requests that pass at once after an idle period.
    pub burst: f64,
    /// Number of requests per second that pass after the burst.
    pub per_second: f64,
}

/// Token bucket: holds up to [`Rate::burst`] tokens, and gains [`Rate::per_second`] tokens in a second. Each request
/// that passes takes one token.
#[derive(Clone, Debug)]
pub struct TokenBucket {
    rate: Rate,
    tokens: f64,
    refilled_at: Instant,
}

/// Token bucket per key. A new key starts with a full bucket, so full buckets can be removed without an effect on the
/// limit. This happens from time to time, to free memory.
#[derive(Debug)]
pub struct KeyedRateLimit<K> {
    rate: Rate,
    buckets: HashMap<K, TokenBucket>,
    /// Number of keys at which full buckets are removed next.
    removal_threshold: usize,
}

/// Fixed window: `limit` log lines pass per `period`. Further lines are suppressed and counted. A period starts with
/// the first line after the previous period.
#[derive(Clone, Debug)]
pub struct Window {
    limit: u32,
    period: Duration,
    started_at: Option<Instant>,
    passed: u32,
    suppressed: u64,
}

// === impl TokenBucket ===

impl TokenBucket {
    /// Creates a full bucket.
    pub fn new(rate: Rate, now: Instant) -> Self {
        Self {
            rate,
            tokens: rate.burst,
            refilled_at: now,
        }
    }

    /// Takes a token if there is one. Returns whether there was one.
    pub fn try_take(&mut self, now: Instant) -> bool {
        let has_token = self.has_token(now);
        if has_token {
            self.tokens -= 1.0;
        }
        has_token
    }

    /// Returns whether [`Self::try_take`] would succeed.
    pub fn has_token(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.tokens >= 1.0
    }

    fn is_full(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.tokens >= self.rate.burst
    }

    fn refill(&mut self, now: Instant) {
        let idle = now.saturating_duration_since(self.refilled_at).min(MAX_IDLE);
        self.tokens = (self.tokens + idle.as_secs_f64() * self.rate.per_second).min(self.rate.burst);
        self.refilled_at = self.refilled_at.max(now);
    }
}

// === impl KeyedRateLimit ===

impl<K: Eq + Hash> KeyedRateLimit<K> {
    /// Creates a limit without keys. A new key starts with a full bucket.
    pub fn new(rate: Rate) -> Self {
        Self {
            rate,
            buckets: HashMap::new(),
            removal_threshold: MIN_REMOVAL_THRESHOLD,
        }
    }

    /// Returns whether [`Self::try_take`] would succeed for the key. Does not store a new key.
    pub fn has_token(&mut self, key: &K, now: Instant) -> bool {
        self.buckets
            .get_mut(key)
            .is_none_or(|bucket| bucket.has_token(now))
    }

    /// Takes a token from the key's bucket if there is one. Returns whether there was one.
    pub fn try_take(&mut self, key: K, now: Instant) -> bool {
        if self.buckets.len() >= self.removal_threshold {
            self.buckets.retain(|_, bucket| !bucket.is_full(now));
            self.removal_threshold = MIN_REMOVAL_THRESHOLD.max(2 * self.buckets.len());
        }
        let rate = self.rate;
        let entry = self.buckets.entry(key);
        entry.or_insert_with(|| TokenBucket::new(rate, now)).try_take(now)
    }

    /// Returns the number of keys that have a bucket.
    pub fn key_count(&self) -> usize {
        self.buckets.len()
    }
}

// === impl Window ===

impl Window {
    /// Creates a window of `limit` log lines per `period`.
    pub const fn new(limit: u32, period: Duration) -> Self {
        Self {
            limit,
            period,
            started_at: None,
            passed: 0,
            suppressed: 0,
        }
    }

    /// Decides whether a log line passes. Returns `None` if the line is suppressed. Otherwise, returns the number of
    /// lines that were suppressed since the last line that passed.
    pub fn try_pass(&mut self, now: Instant) -> Option<u64> {
        let is_over = |start| now.saturating_duration_since(start) >= self.period;
        if self.started_at.is_none_or(is_over) {
            self.started_at = Some(now);
            self.passed = 0;
        }
        if self.passed >= self.limit {
            self.suppressed += 1;
            return None;
        }
        self.passed += 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const RATE: Rate = Rate {
        burst: 20.0,
        per_second: 0.5,
    };

    #[test]
    fn bucket_lets_a_burst_pass_and_then_the_rate() {
        let now = Instant::now();
        let mut bucket = TokenBucket::new(RATE, now);
        assert_eq!((0..100).filter(|_| bucket.try_take(now)).count(), 20);
        assert!(!bucket.has_token(now + SECOND));
        assert!(bucket.try_take(now + 2 * SECOND));
        assert!(!bucket.try_take(now + 2 * SECOND));
    }

    #[test]
    fn idle_bucket_holds_no_more_than_its_burst() {
        let now = Instant::now();
        let mut bucket = TokenBucket::new(RATE, now);
        let later = now + 10 * MAX_IDLE;
        assert_eq!((0..100).filter(|_| bucket.try_take(later)).count(), 20);
        assert!(!bucket.try_take(now), "an earlier time adds no tokens");
    }

    #[test]
    fn keys_do_not_share_tokens_and_full_buckets_are_removed() {
        let mut now = Instant::now();
        let mut limit = KeyedRateLimit::new(RATE);
        assert_eq!((0..100).filter(|_| limit.try_take(0, now)).count(), 20);
        assert!(!limit.has_token(&0, now));
        assert!(limit.has_token(&1, now));
        assert_eq!(limit.key_count(), 1);
        for key in 0..100_000_u32 {
            now += SECOND;
            limit.try_take(key, now);
        }
        assert!(
            limit.key_count() <= 2 * MIN_REMOVAL_THRESHOLD,
            "{}",
            limit.key_count()
        );
    }

    #[test]
    fn window_lets_its_limit_pass_and_counts_suppressed_lines() {
        let now = Instant::now();
        let mut window = Window::new(10, 60 * SECOND);
        let suppressed_counts = (0..1000).filter_map(|_| window.try_pass(now));
        assert_eq!(suppressed_counts.collect::<Vec<_>>(), [0; 10]);
        assert_eq!(window.try_pass(now + 59 * SECOND), None);
        assert_eq!(window.try_pass(now + 60 * SECOND), Some(991));
        assert_eq!(window.try_pass(now + 60 * SECOND), Some(0));
    }
}
