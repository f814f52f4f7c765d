//! The demo program in Pods: single requests, and the counters of a continuous client.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

use super::kubectl::Kubectl;

/// URL of the counters, inside of the client's Pod.
const COUNTERS: &str = "http://127.0.0.1:8081/";

/// Counters of a client since its start.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Counters {
    /// Responses with a status below 400.
    pub(crate) succeeded: u64,
    /// Requests with another status, or without a response.
    pub(crate) failed: u64,
    /// Successful responses by the Pod that sent them.
    pub(crate) by_pod: BTreeMap<String, u64>,
    /// Failures by reason.
    pub(crate) by_failure: BTreeMap<String, u64>,
    /// Body of the last successful response.
    pub(crate) last_answer: Option<Value>,
}

impl Counters {
    /// Returns the increase since earlier counters of the same client.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        Self {
            succeeded: self.succeeded.saturating_sub(earlier.succeeded),
            failed: self.failed.saturating_sub(earlier.failed),
            by_pod: increase(&self.by_pod, &earlier.by_pod),
            by_failure: increase(&self.by_failure, &earlier.by_failure),
            last_answer: self.last_answer.clone(),
        }
    }

    /// Summarises the failures.
    pub(crate) fn failures(&self) -> String {
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

fn increase(now: &BTreeMap<String, u64>, earlier: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let increases = now
        .iter()
        .map(|(key, count)| (key.clone(), count - earlier.get(key).unwrap_or(&0)));
    increases.filter(|(_, count)| *count > 0).collect()
}

/// Reads the counters of the client in a Pod.
pub(crate) async fn counters(kubectl: &Kubectl, namespace: &str, pod: &str) -> Result<Counters> {
    let text = get(kubectl, namespace, pod, "client", COUNTERS).await?;
    serde_json::from_str(&text).with_context(|| format!("counters of {namespace}/{pod}: {text}"))
}

/// Makes a GET request in a container and returns the body of the response.
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
        .with_context(|| format!("{url}: {printed}"))?;
    Ok(body.to_owned())
}

/// Makes a GET request that must fail, in the client container of a Pod, and returns the kind of failure.
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
    fn difference_contains_only_new_requests() {
        let counters = |succeeded, failed, pods: &[(&str, u64)]| Counters {
            succeeded,
            failed,
            by_pod: pods
                .iter()
                .map(|(pod, count)| ((*pod).to_owned(), *count))
                .collect(),
            by_failure: BTreeMap::from([("status 503".to_owned(), failed)]),
            last_answer: None,
        };
        let gained = counters(9, 2, &[("a", 4), ("b", 2)]).since(&counters(5, 1, &[("a", 4)]));
        assert_eq!(gained.by_pod, BTreeMap::from([("b".to_owned(), 2)]));
        assert_eq!(gained.failures(), "1 of 5 requests failed: status 503: 1");
    }
}
