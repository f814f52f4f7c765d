//! The demo program in pods: one request of it, and the counters of a client that calls all the time.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

use super::kubectl::Kubectl;

/// Where a client serves its counters.
const COUNTERS: &str = "http://127.0.0.1:8081/";

/// What a client counted since it started.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Counters {
    /// Answers with a status below 400.
    pub(crate) succeeded: u64,
    /// The other requests.
    pub(crate) failed: u64,
    /// Successful answers by the pod that gave them.
    pub(crate) by_pod: BTreeMap<String, u64>,
    /// Failures by reason.
    pub(crate) by_failure: BTreeMap<String, u64>,
    /// The last successful answer.
    pub(crate) last_answer: Option<Value>,
}

impl Counters {
    /// What was counted since an earlier look at the same client.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        Self {
            succeeded: self.succeeded.saturating_sub(earlier.succeeded),
            failed: self.failed.saturating_sub(earlier.failed),
            by_pod: grown(&self.by_pod, &earlier.by_pod),
            by_failure: grown(&self.by_failure, &earlier.by_failure),
            last_answer: self.last_answer.clone(),
        }
    }

    /// Failures in a few words.
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

fn grown(now: &BTreeMap<String, u64>, earlier: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let gains = now
        .iter()
        .map(|(key, count)| (key.clone(), count - earlier.get(key).unwrap_or(&0)));
    gains.filter(|(_, gain)| *gain > 0).collect()
}

/// The counters of the client in a pod.
pub(crate) async fn counters(kubectl: &Kubectl, namespace: &str, pod: &str) -> Result<Counters> {
    let text = get(kubectl, namespace, pod, "client", COUNTERS).await?;
    serde_json::from_str(&text).with_context(|| format!("counters of {namespace}/{pod}: {text}"))
}

/// The answer to a GET request made in a container.
///
/// # Errors
/// When there is none, or its status is 400 or more.
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
/// When the request succeeds.
pub(crate) async fn get_refused(kubectl: &Kubectl, namespace: &str, pod: &str, url: &str) -> Result<String> {
    let command = ["kermode-demo", "get", url, "--expect-fail"];
    let printed = kubectl.exec(namespace, pod, "client", &command).await?;
    Ok(printed.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_new_since_an_earlier_look_counts() {
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
