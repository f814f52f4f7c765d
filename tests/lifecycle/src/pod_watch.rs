//! Records the ends of servers: when their deletion was requested, when the application ended, and how many requests it
//! was answering then.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use serde::Deserialize;
use tokio::task::JoinHandle;

use crate::objects::SERVER;

/// End of a server. Times are in milliseconds since the Unix epoch.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ServerEnd {
    /// Time at which the deletion of the Pod was requested, rounded down to seconds; `None` if it was not.
    pub(crate) deleted_at: Option<i64>,
    /// Time at which the application ended, as the application reports. If it was killed, the time at which the container
    /// runtime noticed the end, rounded down to seconds. `None` if it runs, or if the time is not known.
    pub(crate) ended_at: Option<i64>,
    /// Requests in progress when the application ended, in the order of the servers' listeners; `None` if the application
    /// was killed or runs.
    pub(crate) requests_in_progress: Option<Vec<u64>>,
    /// Whether the Pod no longer exists.
    pub(crate) is_gone: bool,
}

/// Message that a server writes when it ends.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TerminationMessage {
    requests_in_progress: Vec<u64>,
    ended_at: i64,
}

type Ends = Arc<Mutex<BTreeMap<String, ServerEnd>>>;

/// Running watch of the servers of a namespace. It ends when this value is dropped.
pub(crate) struct PodWatch {
    ends: Ends,
    task: JoinHandle<()>,
}

impl Drop for PodWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

// === impl PodWatch ===

impl PodWatch {
    /// Starts a watch.
    pub(crate) fn start(pods: Api<Pod>) -> Self {
        let ends = Ends::default();
        let recorded = Arc::clone(&ends);
        let config = watcher::Config::default().labels(&format!("app={SERVER}"));
        let mut events = watcher(pods, config).default_backoff().boxed();
        let task = tokio::spawn(async move {
            while let Some(event) = events.next().await {
                // After an error, the stream continues with a new watch.
                if let Ok(event) = event {
                    record(
                        &mut recorded.lock().unwrap_or_else(PoisonError::into_inner),
                        event,
                    );
                }
            }
        });
        Self { ends, task }
    }

    /// Returns the servers, by the name of their Pod.
    pub(crate) fn servers(&self) -> BTreeMap<String, ServerEnd> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn record(ends: &mut BTreeMap<String, ServerEnd>, event: watcher::Event<Pod>) {
    match event {
        watcher::Event::Apply(pod) | watcher::Event::InitApply(pod) => {
            update(ends.entry(pod.name_any()).or_default(), &pod);
        }
        watcher::Event::Delete(pod) => {
            let end = ends.entry(pod.name_any()).or_default();
            update(end, &pod);
            end.is_gone = true;
        }
        watcher::Event::Init | watcher::Event::InitDone => {}
    }
}

/// Adds what a version of a Pod shows. Later versions may show less, for example after the kubelet has reset the status.
fn update(end: &mut ServerEnd, pod: &Pod) {
    if let Some(at) = &pod.metadata.deletion_timestamp {
        // The time of a deletion includes the grace period.
        let grace_period = pod.metadata.deletion_grace_period_seconds.unwrap_or(0);
        let deleted_at = at.0.as_millisecond() - 1000 * grace_period;
        // A second deletion with a shorter grace period does not change when the first was requested.
        end.deleted_at = Some(
            end.deleted_at
                .map_or(deleted_at, |earlier| earlier.min(deleted_at)),
        );
    }
    let statuses = pod
        .status
        .iter()
        .flat_map(|status| status.container_statuses.iter().flatten());
    let terminated = statuses
        .filter(|status| status.name == SERVER)
        .find_map(|status| status.state.as_ref()?.terminated.as_ref());
    if let Some(terminated) = terminated {
        end.ended_at = terminated
            .finished_at
            .as_ref()
            .map(|at| at.0.as_millisecond())
            .or(end.ended_at);
        let message = terminated.message.as_deref().unwrap_or_default();
        if let Ok(message) = serde_json::from_str::<TerminationMessage>(message) {
            end.requests_in_progress = Some(message.requests_in_progress);
            end.ended_at = Some(message.ended_at);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn end_of_a_server_is_read_from_the_versions_of_its_pod() {
        let mut ends = BTreeMap::new();
        let pod = |status: serde_json::Value| -> Pod {
            serde_json::from_value(json!({
                "metadata": {
                    "name": "a",
                    "deletionTimestamp": "2026-01-01T00:00:30Z",
                    "deletionGracePeriodSeconds": 30,
                },
                "status": {"containerStatuses": [
                    {"name": "sidecar", "image": "", "imageID": "", "ready": false, "restartCount": 0},
                    {"name": "server", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": status},
                ]},
            }))
            .expect("a Pod")
        };
        record(&mut ends, watcher::Event::Apply(pod(json!({"running": {}}))));
        let deleted_at = 1_767_225_600_000;
        let running = ServerEnd {
            deleted_at: Some(deleted_at),
            ..ServerEnd::default()
        };
        assert_eq!(ends["a"], running);
        let terminated = json!({"terminated": {
            "exitCode": 0,
            "finishedAt": "2026-01-01T00:00:05Z",
            "message": r#"{"requestsInProgress": [1, 0, 2], "endedAt": 1767225604321}"#,
        }});
        record(&mut ends, watcher::Event::Apply(pod(terminated)));
        record(&mut ends, watcher::Event::Delete(pod(json!({"running": {}}))));
        let ended = ServerEnd {
            deleted_at: Some(deleted_at),
            ended_at: Some(deleted_at + 4321),
            requests_in_progress: Some(vec![1, 0, 2]),
            is_gone: true,
        };
        assert_eq!(ends["a"], ended);
    }
}
