//! Counters of the demo client: responses by Pod and status, failures by reason. Plain data without a clock.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

/// Maximum number of distinct failure reasons. Reasons are texts of errors, so nothing else bounds their number.
/// Further reasons are counted as `other`.
const MAX_REASONS: usize = 32;

/// Counters since the start of the client.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Counters {
    /// All requests, with or without a response.
    requests: u64,
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
    /// Body of the last successful response; `None` if this body is not JSON.
    last_answer: Option<Value>,
}

impl Counters {
    /// Counts a response.
    pub(crate) fn record_response(&mut self, status: u16, body: &[u8]) {
        *self.by_status.entry(status).or_default() += 1;
        if status >= 400 {
            self.record_failure(&format!("status {status}"));
            return;
        }
        self.requests += 1;
        self.succeeded += 1;
        let body: Option<Value> = serde_json::from_slice(body).ok();
        let pod = body.as_ref().and_then(|body| body["pod"].as_str());
        *self
            .by_pod
            .entry(pod.unwrap_or("unknown").to_owned())
            .or_default() += 1;
        self.last_answer = body;
    }

    /// Counts a request without a successful response.
    pub(crate) fn record_failure(&mut self, reason: &str) {
        self.requests += 1;
        self.failed += 1;
        let has_counter = self.by_failure.contains_key(reason) || self.by_failure.len() < MAX_REASONS;
        let reason = if has_counter { reason } else { "other" };
        *self.by_failure.entry(reason.to_owned()).or_default() += 1;
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

    #[test]
    fn responses_are_counted_by_pod_and_failures_by_reason() {
        let mut counters = Counters::default();
        counters.record_response(200, br#"{"pod": "a"}"#);
        counters.record_response(200, br#"{"pod": "b"}"#);
        counters.record_response(200, b"something else");
        counters.record_response(503, b"no healthy upstream");
        counters.record_failure("connect: connection refused");
        assert_eq!(
            serde_json::to_value(&counters).expect("JSON"),
            json!({
                "requests": 5,
                "succeeded": 3,
                "failed": 2,
                "byPod": {"a": 1, "b": 1, "unknown": 1},
                "byStatus": {"200": 3, "503": 1},
                "byFailure": {"connect: connection refused": 1, "status 503": 1},
                "lastAnswer": null,
            })
        );
    }

    #[test]
    fn line_reports_only_new_requests() {
        let mut counters = Counters::default();
        counters.record_response(200, br#"{"pod": "a"}"#);
        let earlier = counters.clone();
        counters.record_response(200, br#"{"pod": "b"}"#);
        counters.record_failure("connect: refused");
        assert_eq!(
            counters.line_since(&earlier),
            "requests=2 succeeded=1 failed=1 b=1 [connect: refused]=1"
        );
    }

    #[test]
    fn number_of_reasons_is_bounded() {
        let mut counters = Counters::default();
        for number in 0..1000 {
            counters.record_failure(&format!("reason {number}"));
        }
        assert_eq!(counters.by_failure.len(), MAX_REASONS + 1);
        assert_eq!(counters.by_failure.values().sum::<u64>(), 1000);
    }
}
