//! How long an answer may take. The API server says in the query how long it waits, and what comes later than that is
//! worth nothing: a clear refusal in time is.

use std::future::Future;
use std::time::Duration;

use kermode_model::duration;
use serde::Deserialize;
use tokio::time::Instant;

/// What the registrations of `kumactl install` say, for a caller that does not.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest that the API server waits for any webhook.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the API server may take for what memory does not have, however long the caller waits.
const LONGEST_LOOK_UP: Duration = Duration::from_secs(4);

/// The query of a call.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Query {
    /// How long the caller waits, in Go's notation.
    timeout: Option<String>,
}

/// The times by which parts of an answer have to be there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    /// When the whole question must have been read.
    read: Instant,
    /// When looking things up ends.
    look_up: Instant,
}

/// It took too long.
#[derive(Clone, Copy, Debug)]
pub(super) struct TooLate;

impl Deadline {
    /// The deadline of a call that begins now. Half the time is left for the way there and back.
    pub(super) fn new(query: &Query, now: Instant) -> Self {
        let stated = query
            .timeout
            .as_deref()
            .and_then(|text| duration::parse(text).ok());
        let timeout = stated.unwrap_or(DEFAULT_TIMEOUT).min(LONGEST_TIMEOUT);
        Self {
            read: now + timeout,
            look_up: now + (timeout / 2).min(LONGEST_LOOK_UP),
        }
    }

    /// Waits for the question.
    pub(super) async fn read<T>(self, work: impl Future<Output = T>) -> Result<T, TooLate> {
        tokio::time::timeout_at(self.read, work)
            .await
            .map_err(|_| TooLate)
    }

    /// Waits for what is not in memory.
    pub(super) async fn look_up<T>(self, work: impl Future<Output = T>) -> Result<T, TooLate> {
        tokio::time::timeout_at(self.look_up, work)
            .await
            .map_err(|_| TooLate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(timeout: Option<&str>) -> (f64, f64) {
        let now = Instant::now();
        let timeout = timeout.map(str::to_owned);
        let deadline = Deadline::new(&Query { timeout }, now);
        let from_now = |at: Instant| at.duration_since(now).as_secs_f64();
        (from_now(deadline.read), from_now(deadline.look_up))
    }

    #[test]
    fn look_ups_end_well_before_the_caller_gives_up() {
        assert_eq!(seconds(Some("2s")), (2.0, 1.0));
        assert_eq!(seconds(Some("500ms")), (0.5, 0.25));
        assert_eq!(seconds(Some("30s")), (30.0, 4.0));
    }

    #[test]
    fn nonsense_and_silence_mean_the_registered_time() {
        for query in [None, Some(""), Some("soon"), Some("-1s")] {
            assert_eq!(seconds(query), (10.0, 4.0), "{query:?}");
        }
        assert_eq!(seconds(Some("10000h")), (30.0, 4.0));
    }
}
