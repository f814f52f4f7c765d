//! Tracking of the replicas of the control plane: the addresses at which they serve proxies, and the time of the last
//! start or end of one.
//!
//! Replicas do not communicate with each other. A draining sidecar gets the addresses of all replicas and requests the
//! removal status of its endpoint from each (`kermode_removals`).

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kermode_k8s::controller::watch::{Conversion, Update, follow, watch_config};
use kermode_model::ObjectKey;
use kermode_removals::Replicas;
use kube::runtime::watcher::watcher;
use kube::{Api, Client};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// Label selector of the Pods of the control plane, as installed.
const POD_SELECTOR: &str = "app=kuma-control-plane";
/// Name of the container that runs the replica.
const CONTAINER_NAME: &str = "control-plane";
/// Capacity of the channel from the watch, in updates.
const QUEUE_CAPACITY: usize = 16;

/// Pod of the control plane whose process runs.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Replica {
    ip: IpAddr,
    /// ID of the container. A new ID is a new process, which has none of the streams of the previous one.
    container_id: String,
    /// Whether the Pod is an endpoint of the Service.
    is_ready: bool,
}

impl Replica {
    /// Returns whether a later state of the same Pod belongs to the same process.
    fn is_same_process(&self, later: &Self) -> bool {
        (self.ip, &self.container_id) == (later.ip, &later.container_id)
    }
}

/// Running replicas.
#[derive(Debug)]
struct ReplicaTracker {
    /// Pod of this process.
    own: ObjectKey,
    /// Port at which replicas serve proxies.
    port: u16,
    /// Running replicas by Pod, including this one.
    running: HashMap<ObjectKey, Replica>,
    /// Whether the first list of the watch is complete.
    is_synced: bool,
    /// Time of the last start or end of a replica.
    changed_at: Instant,
}

/// Watches the Pods of the control plane and publishes the replicas, until the future is dropped.
pub async fn run(client: Client, own: ObjectKey, port: u16, replicas: watch::Sender<Replicas>) {
    let pods = Api::<Pod>::namespaced(client, &own.namespace);
    let (sink, mut updates) = mpsc::channel(QUEUE_CAPACITY);
    let following = follow(
        "pods of the control plane",
        watcher(pods, watch_config().labels(POD_SELECTOR)),
        |pod: Pod| Conversion::from(running_replica(&pod)),
        |update| update,
        sink,
    );
    let tracking = async {
        let mut tracker = ReplicaTracker::new(own, port, Instant::now());
        while let Some(update) = updates.recv().await {
            tracker.on_update(update, Instant::now());
            replicas.send_replace(tracker.replicas());
        }
    };
    tokio::join!(following, tracking);
}

/// Converts a Pod to a replica. `None` while its process does not run, since it has no streams then.
fn running_replica(pod: &Pod) -> Option<Replica> {
    let status = pod.status.as_ref()?;
    let is_running = |status: &&ContainerStatus| {
        let state = status.state.as_ref();
        status.name == CONTAINER_NAME && state.is_some_and(|state| state.running.is_some())
    };
    let running = status.container_statuses.iter().flatten().find(is_running)?;
    Some(Replica {
        ip: status.pod_ip.as_ref()?.parse().ok()?,
        container_id: running.container_id.clone()?,
        is_ready: running.ready && pod.metadata.deletion_timestamp.is_none(),
    })
}

// === impl ReplicaTracker ===

impl ReplicaTracker {
    fn new(own: ObjectKey, port: u16, now: Instant) -> Self {
        Self {
            own,
            port,
            running: HashMap::new(),
            is_synced: false,
            changed_at: now,
        }
    }

    fn on_update(&mut self, update: Update<Replica>, now: Instant) {
        let (before, after) = match update {
            Update::Synced => {
                self.is_synced = true;
                return;
            }
            Update::Gone(pod) => (self.running.remove(&pod), None),
            Update::Applied(pod, replica) => (self.running.insert(pod, replica.clone()), Some(replica)),
        };
        let is_unchanged = match (&before, &after) {
            (Some(before), Some(after)) => before.is_same_process(after),
            // The replicas of the first list did not start just now.
            (None, Some(_)) => !self.is_synced,
            (_, None) => false,
        };
        if is_unchanged {
            return;
        }
        self.changed_at = now;
        if let Some(ended) = before {
            tracing::info!(address = %ended.ip, "replica ended");
        }
    }

    fn replicas(&self) -> Replicas {
        let others = self.running.iter().filter(|(pod, _)| **pod != self.own);
        let others = others.map(|(_, replica)| replica);
        let ready_others = others.clone().filter(|replica| replica.is_ready).count();
        let mut others: Vec<_> = others
            .map(|replica| SocketAddr::new(replica.ip, self.port))
            .collect();
        others.sort_unstable();
        Replicas {
            others: Arc::from(others),
            ready_others,
            unchanged_since: self.is_synced.then_some(self.changed_at),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;

    fn mk_replica(ip: &str, state: Value) -> Option<Replica> {
        let status = json!({
            "podIP": ip,
            "containerStatuses": [
                {"name": "logs", "state": {"running": {}}, "containerID": "containerd://0", "ready": true,
                 "image": "", "imageID": "", "restartCount": 0},
                {"name": CONTAINER_NAME, "state": state, "containerID": format!("containerd://{ip}"), "ready": true,
                 "image": "", "imageID": "", "restartCount": 0},
            ],
        });
        let pod = json!({"metadata": {"name": "cp"}, "status": status});
        running_replica(&serde_json::from_value(pod).expect("a Pod"))
    }

    fn pod_key(name: &str) -> ObjectKey {
        ObjectKey::new("kong-mesh-system", name)
    }

    fn others(tracker: &ReplicaTracker) -> Vec<String> {
        tracker
            .replicas()
            .others
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn pod_is_a_replica_while_its_process_runs() {
        let running = mk_replica("10.0.0.1", json!({"running": {}})).expect("a replica");
        assert_eq!(running.ip.to_string(), "10.0.0.1");
        assert_eq!(running.container_id, "containerd://10.0.0.1");
        assert_eq!(mk_replica("10.0.0.1", json!({"waiting": {}})), None);
        assert_eq!(mk_replica("", json!({"running": {}})), None);
        assert_eq!(running_replica(&Pod::default()), None);
    }

    #[test]
    fn other_replicas_are_known_after_the_first_list_and_each_start_or_end_updates_the_time() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mk_running = |ip| mk_replica(ip, json!({"running": {}})).expect("a replica");
        let mut tracker = ReplicaTracker::new(pod_key("a"), 5678, start);
        for (name, ip) in [("a", "10.0.0.1"), ("c", "fd00::3"), ("b", "10.0.0.2")] {
            tracker.on_update(Update::Applied(pod_key(name), mk_running(ip)), at(1));
        }
        assert_eq!(
            tracker.replicas().unchanged_since,
            None,
            "the first list is incomplete"
        );
        tracker.on_update(Update::Synced, at(1));
        assert_eq!(others(&tracker), ["10.0.0.2:5678", "[fd00::3]:5678"]);
        assert_eq!(tracker.replicas().unchanged_since, Some(start));

        // A change of readiness is not the end of a replica.
        assert_eq!(tracker.replicas().ready_others, 2);
        let unready = Replica {
            is_ready: false,
            ..mk_running("10.0.0.2")
        };
        tracker.on_update(Update::Applied(pod_key("b"), unready), at(2));
        assert_eq!(
            (
                tracker.replicas().ready_others,
                tracker.replicas().unchanged_since
            ),
            (1, Some(start))
        );
        // A restarted container has none of the previous streams.
        let restarted = Replica {
            container_id: "containerd://restarted".to_owned(),
            ..mk_running("10.0.0.2")
        };
        tracker.on_update(Update::Applied(pod_key("b"), restarted), at(3));
        assert_eq!(
            (others(&tracker).len(), tracker.replicas().unchanged_since),
            (2, Some(at(3)))
        );
        tracker.on_update(Update::Gone(pod_key("c")), at(4));
        assert_eq!(others(&tracker), ["10.0.0.2:5678"]);
        assert_eq!(tracker.replicas().unchanged_since, Some(at(4)));
        tracker.on_update(Update::Applied(pod_key("d"), mk_running("10.0.0.4")), at(5));
        assert_eq!(tracker.replicas().unchanged_since, Some(at(5)));
    }
}
