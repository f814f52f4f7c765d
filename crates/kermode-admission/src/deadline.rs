//! Deadlines of a review. The API server sends its timeout in the URL, and discards a response after the timeout.
//! Lookups of objects in the API server end early enough to send a denial with a clear message before the timeout.

use std::future::Future;
use std::time::Duration;

use kermode_model::duration;
use serde::Deserialize;
use tokio::time::Instant;

/// Timeout if the URL has no valid timeout. The webhook registrations of `kumactl install` have the same timeout.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest timeout that Kubernetes allows for a webhook.
const MAX_TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum time for lookups in the API server.
const MAX_LOOKUP_TIME: Duration = Duration::from_secs(4);

/// Parameters in the URL of a call to a webhook.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Query {
    /// Timeout of the caller as a Go duration, such as `10s`.
    timeout: Option<String>,
}

/// Deadlines of the parts of a review.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadlines {
    /// Time by which the whole review must be read.
    read_deadline: Instant,
    /// Time by which lookups must be complete.
    lookup_deadline: Instant,
}

/// Error of work that missed its deadline.
#[derive(Clone, Copy, Debug)]
pub(super) struct DeadlineExceeded;

impl Deadlines {
    /// Returns the deadlines of a call that begins at `now`. Lookups end after half of the timeout at the latest, so
    /// that the response arrives before the timeout.
    pub(super) fn new(query: &Query, now: Instant) -> Self {
        let requested = query
            .timeout
            .as_deref()
            .and_then(|text| duration::parse(text).ok());
        let timeout = requested.unwrap_or(DEFAULT_TIMEOUT).min(MAX_TIMEOUT);
        Self {
            read_deadline: now + timeout,
            lookup_deadline: now + (timeout / 2).min(MAX_LOOKUP_TIME),
        }
    }

    /// Runs work that is part of reading the review, until the deadline for reading.
    pub(super) async fn read<T>(self, work: impl Future<Output = T>) -> Result<T, DeadlineExceeded> {
        tokio::time::timeout_at(self.read_deadline, work)
            .await
            .map_err(|_| DeadlineExceeded)
    }

    /// Runs a lookup until the deadline for lookups.
    pub(super) async fn look_up<T>(self, work: impl Future<Output = T>) -> Result<T, DeadlineExceeded> {
        tokio::time::timeout_at(self.lookup_deadline, work)
            .await
            .map_err(|_| DeadlineExceeded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the deadlines for reading and for lookups, in seconds from the start of the call.
    fn deadlines_in_seconds(timeout: Option<&str>) -> (f64, f64) {
        let now = Instant::now();
        let timeout = timeout.map(str::to_owned);
        let deadlines = Deadlines::new(&Query { timeout }, now);
        let from_now = |at: Instant| at.duration_since(now).as_secs_f64();
        (
            from_now(deadlines.read_deadline),
            from_now(deadlines.lookup_deadline),
        )
    }

    #[test]
    fn lookups_end_well_before_the_timeout_of_the_caller() {
        assert_eq!(deadlines_in_seconds(Some("2s")), (2.0, 1.0));
        assert_eq!(deadlines_in_seconds(Some("500ms")), (0.5, 0.25));
        assert_eq!(deadlines_in_seconds(Some("30s")), (30.0, 4.0));
    }

    #[test]
    fn missing_or_invalid_timeout_is_replaced_by_the_default_and_a_long_timeout_is_limited() {
        for timeout in [None, Some(""), Some("soon"), Some("-1s")] {
            assert_eq!(deadlines_in_seconds(timeout), (10.0, 4.0), "{timeout:?}");
        }
        assert_eq!(deadlines_in_seconds(Some("10000h")), (30.0, 4.0));
    }
}
