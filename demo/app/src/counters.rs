//! Counters of the demo clients: responses by Pod and status, failures by reason and time, ended connections, and
//! latencies. Plain data without a clock.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

/// Maximum number of distinct failure reasons. Reasons are texts of errors, so nothing else bounds their number.
/// Further reasons are counted as `other`.
const MAX_REASONS: usize = 32;
/// Maximum number of entries in the list of failures by time, and in the list of ended connections. Later failures are
/// only counted.
const MAX_ENTRIES: usize = 10_000;
/// Length in milliseconds of the intervals in which failures are counted.
const INTERVAL_MS: u64 = 100;
/// Quotient of the upper bounds of two neighbouring latency classes. It bounds the error of a percentile to 10 %.
const LATENCY_STEP: f64 = 1.1;

/// Counters since the start of the client.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Counters {
    /// Requests that have ended, with or without a response.
    requests: u64,
    /// Requests that have started. The requests are numbered from 0 in this order.
    started: u64,
    /// Requests that the client has not sent at their time, because its process was paused.
    skipped: u64,
    /// Numbers of the requests that have started and not ended.
    #[serde(skip)]
    open: BTreeSet<u64>,
    /// Responses with a status below 400.
    succeeded: u64,
    /// Responses with a status of at least 400, and requests without a response.
    failed: u64,
    /// Successful responses by the Pod that sent them; `unknown` if the body does not name the Pod.
    by_pod: BTreeMap<String, u64>,
    /// Responses by status.
    by_status: BTreeMap<u16, u64>,
    /// Failures by reason.
    by_failure: BTreeMap<String, u64>,
    /// Failures by time and reason, in the order of time.
    failures: Vec<FailureCount>,
    /// Connections that ended although the client did not close them, in the order of time.
    ended_connections: Vec<EndedConnection>,
    /// Number of successful requests by class of latency. The key is the upper bound of the class in microseconds.
    latencies: BTreeMap<u64, u64>,
    /// Body of the last successful response; `None` if this body is not JSON.
    last_answer: Option<Value>,
}

/// Failures with the same reason in an interval of 100 ms.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct FailureCount {
    /// Start of the interval, in milliseconds since the Unix epoch.
    at: u64,
    reason: String,
    count: u64,
}

/// Connection that ended although the client did not close it.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct EndedConnection {
    /// Time of the end, in milliseconds since the Unix epoch.
    at: u64,
    /// Pod at the other end.
    pod: String,
    reason: String,
}

impl Counters {
    /// Counts the start of a request, and returns its number.
    pub(crate) fn start(&mut self) -> u64 {
        let number = self.started;
        self.started += 1;
        self.open.insert(number);
        number
    }

    /// Records the end of a request. The caller also records its outcome before others can read the counters.
    pub(crate) fn end(&mut self, number: u64) {
        self.open.remove(&number);
    }

    /// Returns N such that the first N requests have ended.
    pub(crate) fn settled(&self) -> u64 {
        self.open.first().copied().unwrap_or(self.started)
    }

    /// Counts requests that were not sent.
    pub(crate) fn record_skipped(&mut self, count: u64) {
        self.skipped += count;
    }

    /// Counts a response. `at` is its time, in milliseconds since the Unix epoch.
    pub(crate) fn record_response(&mut self, status: u16, body: &[u8], latency: Duration, at: u64) {
        *self.by_status.entry(status).or_default() += 1;
        if status >= 400 {
            self.record_failure(&format!("status {status}"), at);
            return;
        }
        let body: Option<Value> = serde_json::from_slice(body).ok();
        let pod = body.as_ref().and_then(|body| body["pod"].as_str());
        self.record_success(pod.unwrap_or("unknown"), latency);
        self.last_answer = body;
    }

    /// Counts a successful request without a status.
    pub(crate) fn record_success(&mut self, pod: &str, latency: Duration) {
        self.requests += 1;
        self.succeeded += 1;
        increment(&mut self.by_pod, pod);
        *self.latencies.entry(latency_class(latency)).or_default() += 1;
    }

    /// Counts a request without a successful response. `at` is the time of the failure, in milliseconds since the Unix
    /// epoch.
    pub(crate) fn record_failure(&mut self, reason: &str, at: u64) {
        self.requests += 1;
        self.failed += 1;
        let has_counter = self.by_failure.contains_key(reason) || self.by_failure.len() < MAX_REASONS;
        let reason = if has_counter { reason } else { "other" };
        increment(&mut self.by_failure, reason);
        let interval = at - at % INTERVAL_MS;
        let same_interval = self.failures.iter_mut().rev();
        let mut same_interval = same_interval.take_while(|failure| failure.at >= interval);
        if let Some(failure) =
            same_interval.find(|failure| failure.at == interval && failure.reason == reason)
        {
            failure.count += 1;
        } else if self.failures.len() < MAX_ENTRIES {
            self.failures.push(FailureCount {
                at: interval,
                reason: reason.to_owned(),
                count: 1,
            });
        }
    }

    /// Records the end of a connection that the client did not close. `at` is the time of the end, in milliseconds since
    /// the Unix epoch.
    pub(crate) fn record_ended_connection(&mut self, pod: &str, reason: &str, at: u64) {
        if self.ended_connections.len() < MAX_ENTRIES {
            self.ended_connections.push(EndedConnection {
                at,
                pod: pod.to_owned(),
                reason: reason.to_owned(),
            });
        }
    }

    /// Returns a log line about the requests since the state `earlier` of these counters.
    pub(crate) fn line_since(&self, earlier: &Self) -> String {
        let mut parts = vec![format!(
            "requests={} succeeded={} failed={}",
            self.requests - earlier.requests,
            self.succeeded - earlier.succeeded,
            self.failed - earlier.failed,
        )];
        let pods = increase(&self.by_pod, &earlier.by_pod);
        parts.extend(pods.map(|(pod, count)| format!("{pod}={count}")));
        let failures = increase(&self.by_failure, &earlier.by_failure);
        parts.extend(failures.map(|(reason, count)| format!("[{reason}]={count}")));
        parts.join(" ")
    }
}

/// Adds one to a counter. The key is copied only if the counter is new.
fn increment(counters: &mut BTreeMap<String, u64>, key: &str) {
    if let Some(count) = counters.get_mut(key) {
        *count += 1;
    } else {
        counters.insert(key.to_owned(), 1);
    }
}

/// Returns the upper bound, in microseconds, of the class of a latency.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "latencies are far below the limits of the types"
)]
fn latency_class(latency: Duration) -> u64 {
    let microseconds = latency.as_micros().max(1) as f64;
    let class = (microseconds.ln() / LATENCY_STEP.ln()).ceil();
    LATENCY_STEP.powf(class).round() as u64
}

/// Returns the counters that have grown since `earlier`, and by how much.
fn increase<'a>(
    current: &'a BTreeMap<String, u64>,
    earlier: &'a BTreeMap<String, u64>,
) -> impl Iterator<Item = (&'a str, u64)> {
    current
        .iter()
        .map(|(key, count)| {
            (
                key.as_str(),
                count - earlier.get(key).copied().unwrap_or_default(),
            )
        })
        .filter(|(_, count)| *count > 0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const LATENCY: Duration = Duration::from_millis(1);

    #[test]
    fn responses_are_counted_by_pod_and_failures_by_reason_and_time() {
        let mut counters = Counters::default();
        counters.record_response(200, br#"{"pod": "a"}"#, LATENCY, 1000);
        counters.record_response(200, br#"{"pod": "b"}"#, LATENCY, 1010);
        counters.record_response(200, b"something else", LATENCY, 1020);
        counters.record_response(503, b"no healthy upstream", LATENCY, 1030);
        counters.record_failure("connect: connection refused", 1040);
        counters.record_failure("status 503", 1050);
        counters.record_failure("status 503", 1150);
        counters.record_ended_connection("a", "closed", 1200);
        assert_eq!(
            serde_json::to_value(&counters).expect("JSON"),
            json!({
                "requests": 7,
                "started": 0,
                "skipped": 0,
                "succeeded": 3,
                "failed": 4,
                "byPod": {"a": 1, "b": 1, "unknown": 1},
                "byStatus": {"200": 3, "503": 1},
                "byFailure": {"connect: connection refused": 1, "status 503": 3},
                "failures": [
                    {"at": 1000, "reason": "status 503", "count": 2},
                    {"at": 1000, "reason": "connect: connection refused", "count": 1},
                    {"at": 1100, "reason": "status 503", "count": 1},
                ],
                "endedConnections": [{"at": 1200, "pod": "a", "reason": "closed"}],
                "latencies": {"1051": 3},
                "lastAnswer": null,
            })
        );
    }

    #[test]
    fn requests_are_settled_up_to_the_first_one_that_has_not_ended() {
        let mut counters = Counters::default();
        let numbers = [counters.start(), counters.start(), counters.start()];
        counters.end(numbers[1]);
        assert_eq!(counters.settled(), 0);
        counters.end(numbers[0]);
        assert_eq!(counters.settled(), 2);
        counters.end(numbers[2]);
        assert_eq!(counters.settled(), 3);
    }

    #[test]
    fn upper_bound_of_a_latency_class_is_at_most_a_tenth_above_the_latency() {
        for microseconds in [1, 100, 1000, 123_456, 5_000_000] {
            let bound = latency_class(Duration::from_micros(microseconds));
            assert!(
                (microseconds..=microseconds * 11 / 10 + 1).contains(&bound),
                "{microseconds}: {bound}"
            );
        }
    }

    #[test]
    fn line_reports_only_new_requests() {
        let mut counters = Counters::default();
        counters.record_response(200, br#"{"pod": "a"}"#, LATENCY, 0);
        let earlier = counters.clone();
        counters.record_response(200, br#"{"pod": "b"}"#, LATENCY, 0);
        counters.record_failure("connect: refused", 0);
        assert_eq!(
            counters.line_since(&earlier),
            "requests=2 succeeded=1 failed=1 b=1 [connect: refused]=1"
        );
    }

    #[test]
    fn numbers_of_reasons_and_of_entries_are_bounded() {
        let mut counters = Counters::default();
        for number in 0..20_000 {
            counters.record_failure(&format!("reason {number}"), number * 100);
            counters.record_ended_connection("a", "closed", number);
        }
        assert_eq!(counters.by_failure.len(), MAX_REASONS + 1);
        assert_eq!(counters.by_failure.values().sum::<u64>(), 20_000);
        assert_eq!(counters.failures.len(), MAX_ENTRIES);
        assert_eq!(counters.ended_connections.len(), MAX_ENTRIES);
    }
}
