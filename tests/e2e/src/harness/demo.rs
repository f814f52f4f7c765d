//! The demo program, which runs in Pods. Its command `get` makes a single request. Its command `client` sends requests
//! continuously and counts them.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

use super::kubectl::Kubectl;

/// URL of the client's counters, on loopback in its Pod.
const COUNTERS_URL: &str = "http://127.0.0.1:8081/";

/// Counters of a client since its start.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Counters {
    /// Responses with a status below 400.
    pub(crate) succeeded: u64,
    /// Requests whose response has a status of 400 or more, and requests without a response.
    pub(crate) failed: u64,
    /// Number of successful responses, by the name of the Pod that sent them.
    pub(crate) by_pod: BTreeMap<String, u64>,
    /// Number of failures, by reason.
    pub(crate) by_failure: BTreeMap<String, u64>,
    /// Body of the last successful response.
    #[serde(rename = "lastAnswer")]
    pub(crate) last_response: Option<Value>,
}

impl Counters {
    /// Returns the increase since earlier counters of the same client, with the latest `last_response`.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        Self {
            succeeded: self.succeeded.saturating_sub(earlier.succeeded),
            failed: self.failed.saturating_sub(earlier.failed),
            by_pod: increases(&self.by_pod, &earlier.by_pod),
            by_failure: increases(&self.by_failure, &earlier.by_failure),
            last_response: self.last_response.clone(),
        }
    }

    /// Returns the number of requests, the number of failures, and the reasons of the failures, as text.
    pub(crate) fn request_summary(&self) -> String {
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
fn increases(now: &BTreeMap<String, u64>, earlier: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let differences = now
        .iter()
        .map(|(key, count)| (key.clone(), count.saturating_sub(*earlier.get(key).unwrap_or(&0))));
    differences.filter(|(_, difference)| *difference > 0).collect()
}

/// Reads the counters of the client in a Pod.
pub(crate) async fn counters(kubectl: &Kubectl, namespace: &str, pod: &str) -> Result<Counters> {
    let text = get(kubectl, namespace, pod, "client", COUNTERS_URL).await?;
    serde_json::from_str(&text)
        .with_context(|| format!("cannot decode the counters of client {namespace}/{pod}: {text}"))
}

/// Makes a GET request with the demo program in a container. Returns the body of the response.
///
/// # Errors
/// There is no response, or its status is 400 or more.
pub(crate) async fn get(
    kubectl: &Kubectl,
    namespace: &str,
    pod: &str,
    container: &str,
    url: &str,
) -> Result<String> {
    let printed = kubectl
        .exec(namespace, pod, container, &["kermode-demo", "get", url])
        .await?;
    let (_status, body) = printed
        .split_once(' ')
        .with_context(|| format!("kermode-demo get {url} printed no status and body: {printed}"))?;
    Ok(body.to_owned())
}

/// Makes sequential GET requests to a demo server, each on its own connection. Returns the names of the Pods that
/// responded.
///
/// # Errors
/// A request fails.
pub(crate) async fn responding_pods(
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
        let (_status, body) = line
            .split_once(' ')
            .with_context(|| format!("kermode-demo printed no status and body: {line}"))?;
        let response: Value = serde_json::from_str(body)?;
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
pub(crate) async fn get_expecting_failure(
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
            last_response: None,
        };
        let increase = counters(9, 2, &[("a", 4), ("b", 2)]).since(&counters(5, 1, &[("a", 4)]));
        assert_eq!(increase.by_pod, BTreeMap::from([("b".to_owned(), 2)]));
        assert_eq!(
            increase.request_summary(),
            "1 of 5 requests failed: status 503: 1"
        );
    }
}
