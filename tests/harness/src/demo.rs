//! The demo program, which runs in Pods. Its command `get` makes a single request. Its command `client` sends requests
//! continuously and counts them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

use crate::kubectl::Kubectl;

/// URL of the client's counters, on loopback in its Pod.
pub const COUNTERS_URL: &str = "http://127.0.0.1:8081/";

/// Counters of a client since its start.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Counters {
    /// Responses with a status below 400.
    pub succeeded: u64,
    /// Requests whose response has a status of 400 or more, and requests without a response.
    pub failed: u64,
    /// Requests that have started.
    pub started: u64,
    /// Number N such that the first N requests have ended.
    pub settled: u64,
    /// Requests that the client has not sent at their time, because its process was paused.
    pub skipped: u64,
    /// Number of successful responses, by the name of the Pod that sent them.
    pub by_pod: BTreeMap<String, u64>,
    /// Number of failures, by reason.
    pub by_failure: BTreeMap<String, u64>,
    /// Failures by time and reason.
    pub failures: Vec<FailureCount>,
    /// Connections that ended although the client did not close them.
    pub ended_connections: Vec<EndedConnection>,
    /// Number of successful requests by class of latency: the key is the upper bound of the class in microseconds.
    pub latencies: BTreeMap<u64, u64>,
    /// Time of the client when it sent these counters, in milliseconds since the Unix epoch.
    pub now: i64,
    /// Time of the client when it started, in milliseconds since the Unix epoch. It identifies the client's process.
    pub running_since: i64,
    /// Body of the last successful response.
    #[serde(rename = "lastAnswer")]
    pub last_response: Option<Value>,
}

/// Failures with the same reason in an interval of 100 ms.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct FailureCount {
    /// Start of the interval, in milliseconds since the Unix epoch.
    pub at: i64,
    /// Reason.
    pub reason: String,
    /// Number of failures.
    pub count: u64,
}

/// Connection that ended although the client did not close it.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct EndedConnection {
    /// Time of the end, in milliseconds since the Unix epoch.
    pub at: i64,
    /// Pod at the other end.
    pub pod: String,
    /// Reason.
    pub reason: String,
}

impl Counters {
    /// Parses the counters that a client serves.
    ///
    /// # Errors
    /// The text is not the JSON of counters.
    pub fn parse(text: &str) -> Result<Self> {
        serde_json::from_str(text).with_context(|| format!("cannot decode the counters {text}"))
    }

    /// Returns the increase since earlier counters of the same client, with the latest `last_response`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            succeeded: self.succeeded.saturating_sub(earlier.succeeded),
            failed: self.failed.saturating_sub(earlier.failed),
            started: self.started.saturating_sub(earlier.started),
            settled: self.settled.saturating_sub(earlier.settled),
            skipped: self.skipped.saturating_sub(earlier.skipped),
            by_pod: increases(&self.by_pod, &earlier.by_pod),
            by_failure: increases(&self.by_failure, &earlier.by_failure),
            failures: self.failures_since(earlier),
            ended_connections: self
                .ended_connections
                .iter()
                .skip(earlier.ended_connections.len())
                .cloned()
                .collect(),
            latencies: increases(&self.latencies, &earlier.latencies),
            now: self.now,
            running_since: self.running_since,
            last_response: self.last_response.clone(),
        }
    }

    fn failures_since(&self, earlier: &Self) -> Vec<FailureCount> {
        // Only the last intervals of the earlier counters can have grown, but there are few failures.
        let earlier_count = |failure: &FailureCount| {
            let mut same = earlier.failures.iter();
            same.find(|other| other.at == failure.at && other.reason == failure.reason)
                .map_or(0, |other| other.count)
        };
        let increases = self.failures.iter().map(|failure| FailureCount {
            count: failure.count.saturating_sub(earlier_count(failure)),
            ..failure.clone()
        });
        increases.filter(|failure| failure.count > 0).collect()
    }

    /// Returns the latency that at least 99 % of the successful requests do not exceed. The error is at most 10 %.
    pub fn latency_p99(&self) -> Option<Duration> {
        let total: u64 = self.latencies.values().sum();
        let mut count = 0;
        let mut classes = self.latencies.iter();
        let class = classes.find(|(_, requests)| {
            count += **requests;
            count * 100 >= total * 99
        })?;
        Some(Duration::from_micros(*class.0))
    }

    /// Returns the number of requests, the number of failures, and the reasons of the failures, as text.
    pub fn request_summary(&self) -> String {
        let total = self.succeeded + self.failed;
        let reasons: Vec<_> = self
            .by_failure
            .iter()
            .map(|(reason, count)| format!("{reason}: {count}"))
            .collect();
        let colon = if reasons.is_empty() { "" } else { ": " };
        format!(
            "{} of {total} requests failed{colon}{}",
            self.failed,
            reasons.join(", ")
        )
    }
}

/// Returns the increase of each count that has increased. After a restart of the client, a count may be lower.
fn increases<K: Clone + Ord>(now: &BTreeMap<K, u64>, earlier: &BTreeMap<K, u64>) -> BTreeMap<K, u64> {
    let differences = now
        .iter()
        .map(|(key, count)| (key.clone(), count.saturating_sub(*earlier.get(key).unwrap_or(&0))));
    differences.filter(|(_, difference)| *difference > 0).collect()
}

/// Reads the counters of the client in a Pod.
pub async fn counters(kubectl: &Kubectl, namespace: &str, pod: &str) -> Result<Counters> {
    counters_at(kubectl, namespace, pod, "client", COUNTERS_URL).await
}

/// Reads the counters of a client in this container, which serves them at this URL.
pub async fn counters_at(
    kubectl: &Kubectl,
    namespace: &str,
    pod: &str,
    container: &str,
    url: &str,
) -> Result<Counters> {
    let text = get(kubectl, namespace, pod, container, url).await?;
    Counters::parse(&text).with_context(|| format!("client {namespace}/{pod}"))
}

/// Makes a GET request with the demo program in a container. Returns the body of the response.
///
/// # Errors
/// There is no response, or its status is 400 or more.
pub async fn get(
    kubectl: &Kubectl,
    namespace: &str,
    pod: &str,
    container: &str,
    url: &str,
) -> Result<String> {
    let printed = kubectl
        .exec(namespace, pod, container, &["kermode-demo", "get", url])
        .await?;
    printed_body(&printed).map(ToOwned::to_owned)
}

/// Returns the body in a line that `kermode-demo get` printed: the status, a blank, and the body.
///
/// # Errors
/// The line has no blank.
pub fn printed_body(line: &str) -> Result<&str> {
    let (_status, body) = line
        .split_once(' ')
        .with_context(|| format!("kermode-demo printed no status and body: {line}"))?;
    Ok(body)
}

/// Makes sequential GET requests to a demo server, each on its own connection. Returns the names of the Pods that
/// responded.
///
/// # Errors
/// A request fails.
pub async fn responding_pods(
    kubectl: &Kubectl,
    namespace: &str,
    pod: &str,
    url: &str,
    requests: u32,
) -> Result<BTreeSet<String>> {
    let count = format!("--count={requests}");
    let command = ["kermode-demo", "get", url, &count];
    let printed = kubectl.exec(namespace, pod, "client", &command).await?;
    let mut names = BTreeSet::new();
    for line in printed.lines() {
        let response: Value = serde_json::from_str(printed_body(line)?)?;
        let name = response["pod"].as_str().context("the response names no Pod")?;
        names.insert(name.to_owned());
    }
    Ok(names)
}

/// Makes a GET request that must fail, in the client container of a Pod. Returns the line that the demo program prints:
/// the reason of the failure, or the status and body of the response.
///
/// # Errors
/// The request succeeds.
pub async fn get_expecting_failure(
    kubectl: &Kubectl,
    namespace: &str,
    pod: &str,
    url: &str,
) -> Result<String> {
    let command = ["kermode-demo", "get", url, "--expect-fail"];
    let printed = kubectl.exec(namespace, pod, "client", &command).await?;
    Ok(printed.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_returns_only_the_requests_after_the_earlier_counters() {
        let counters = |succeeded, failed, pods: &[(&str, u64)]| Counters {
            succeeded,
            failed,
            by_pod: pods
                .iter()
                .map(|(pod, count)| ((*pod).to_owned(), *count))
                .collect(),
            by_failure: BTreeMap::from([("status 503".to_owned(), failed)]),
            ..Counters::default()
        };
        let increase = counters(9, 2, &[("a", 4), ("b", 2)]).since(&counters(5, 1, &[("a", 4)]));
        assert_eq!(increase.by_pod, BTreeMap::from([("b".to_owned(), 2)]));
        assert_eq!(
            increase.request_summary(),
            "1 of 5 requests failed: status 503: 1"
        );
    }
    #[test]
    fn failures_since_earlier_counters_include_the_growth_of_the_last_interval() {
        let failure = |at, count| FailureCount {
            at,
            reason: "status 503".to_owned(),
            count,
        };
        let with = |failures: &[FailureCount]| Counters {
            failures: failures.to_vec(),
            ..Counters::default()
        };
        let increase = with(&[failure(100, 1), failure(200, 5), failure(300, 1)])
            .since(&with(&[failure(100, 1), failure(200, 2)]));
        assert_eq!(increase.failures, [failure(200, 3), failure(300, 1)]);
    }

    #[test]
    fn p99_is_the_upper_bound_of_the_class_that_99_percent_do_not_exceed() {
        let counters = |slow| Counters {
            latencies: BTreeMap::from([(100, 1000 - slow), (5000, slow)]),
            ..Counters::default()
        };
        assert_eq!(counters(10).latency_p99(), Some(Duration::from_micros(100)));
        assert_eq!(counters(11).latency_p99(), Some(Duration::from_millis(5)));
        assert_eq!(Counters::default().latency_p99(), None);
    }
}
