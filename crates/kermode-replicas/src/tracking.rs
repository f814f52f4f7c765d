//! Tracks the running replicas of the control plane: their addresses, and the time at which a replica last started or
//! ended.
//!
//! Replicas do not communicate with each other. A terminating sidecar gets the addresses of all replicas and requests
//! the removal status of its endpoint from each replica (`kermode_removals`).
//!
//! If a replica were missing from the list of replicas, a removal would look complete while proxies of that replica
//! still send requests. Therefore the list counts as incomplete while it lacks the Pod of this process, and a running
//! Pod counts as a replica if it has either the label or the container name of the control plane.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kermode_k8s::controller::watch::{Conversion, Update, follow, watch_config};
use kermode_model::ObjectKey;
use kermode_removals::Replicas;
use kube::runtime::watcher::watcher;
use kube::{Api, Client};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, interval_at};

/// Key and value of the label that the installation sets on Pods of the control plane.
const POD_LABEL: (&str, &str) = ("app", "kuma-control-plane");
/// Name of the container that runs the replica.
const CONTAINER_NAME: &str = "control-plane";
/// Interval between warnings while the list of replicas lacks the Pod of this process. A healthy start causes no
/// warning, because the kubelet reports a container as running within seconds.
const WARN_INTERVAL: Duration = Duration::from_mins(1);
/// Capacity of the channel from the watch, in updates.
const QUEUE_CAPACITY: usize = 16;

/// Metrics of the tracking of replicas; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    known: Gauge,
}

/// Running replica, as described by its Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Replica {
    ip: IpAddr,
    /// ID of the container. A new ID means a new process, which has no streams yet.
    container_id: String,
    /// Whether the Pod is an endpoint of the Service: it is ready and not terminating.
    is_ready: bool,
}

impl Replica {
    /// Returns whether a later state of the same Pod belongs to the same process.
    fn is_same_process(&self, later: &Self) -> bool {
        (self.ip, &self.container_id) == (later.ip, &later.container_id)
    }
}

/// Tracks the running replicas.
#[derive(Debug)]
struct ReplicaTracker {
    /// Pod of this process.
    own_pod: ObjectKey,
    /// Port at which replicas serve proxies.
    port: u16,
    /// List of replicas: the running replicas by Pod, including this replica.
    running: HashMap<ObjectKey, Replica>,
    /// Whether the first list of the watch has been received.
    is_synced: bool,
    /// Time of the last start or end of a replica, or of the creation of the tracker.
    changed_at: Instant,
}

/// Watches the Pods of the control plane and publishes the replicas, until the future is dropped.
///
/// The watch has no label selector: a Pod of the control plane whose labels were changed still serves proxies.
pub async fn run(
    client: Client,
    own_pod: ObjectKey,
    port: u16,
    replicas: watch::Sender<Replicas>,
    metrics: Metrics,
) {
    let pods = Api::<Pod>::namespaced(client, &own_pod.namespace);
    let (sink, mut updates) = mpsc::channel(QUEUE_CAPACITY);
    let following = follow(
        "pods of the control plane",
        watcher(pods, watch_config()),
        |pod: Pod| Conversion::from(running_replica(&pod)),
        |update| update,
        sink,
    );
    let tracking = async {
        let mut tracker = ReplicaTracker::new(own_pod, port, Instant::now());
        let mut warnings = interval_at(Instant::now() + WARN_INTERVAL, WARN_INTERVAL);
        loop {
            tokio::select! {
                update = updates.recv() => {
                    let Some(update) = update else { return };
                    tracker.on_update(update, Instant::now());
                    metrics.known.set(tracker.known_replicas());
                    replicas.send_replace(tracker.replicas());
                }
                _ = warnings.tick() => tracker.warn_if_own_pod_is_missing(),
            }
        }
    };
    tokio::join!(following, tracking);
}

/// Converts a Pod to a replica. Returns `None` if the Pod does not belong to the control plane, has no IP, or if its
/// container is not running.
fn running_replica(pod: &Pod) -> Option<Replica> {
    let status = pod.status.as_ref()?;
    let containers = status.container_statuses.as_deref().unwrap_or_default();
    let has_replica_name = |status: &ContainerStatus| status.name == CONTAINER_NAME;
    let has_replica_container = containers.iter().any(has_replica_name);
    let labels = pod.metadata.labels.as_ref();
    let has_label = labels
        .and_then(|labels| labels.get(POD_LABEL.0))
        .is_some_and(|value| value == POD_LABEL.1);
    // In a Pod with the label but without a container named `CONTAINER_NAME`, any container may run the replica.
    let is_candidate =
        |status: &ContainerStatus| has_replica_name(status) || (has_label && !has_replica_container);
    let is_running = |status: &ContainerStatus| {
        let state = status.state.as_ref();
        state.is_some_and(|state| state.running.is_some())
    };
    let running = containers
        .iter()
        .find(|status| is_candidate(status) && is_running(status))?;
    Some(Replica {
        ip: status.pod_ip.as_ref()?.parse().ok()?,
        container_id: running.container_id.clone().unwrap_or_default(),
        is_ready: running.ready && pod.metadata.deletion_timestamp.is_none(),
    })
}

// === impl Metrics ===

impl Metrics {
    /// Registers all metrics.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Running replicas of the control plane, this one included; 0 while this one is not found";
        registry.register("replicas_known", help, self.known.clone());
    }
}

// === impl ReplicaTracker ===

impl ReplicaTracker {
    fn new(own_pod: ObjectKey, port: u16, now: Instant) -> Self {
        Self {
            own_pod,
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
            // A replica in the first list may have started long ago.
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
        let others = self.running.iter().filter(|(pod, _)| **pod != self.own_pod);
        let others = others.map(|(_, replica)| replica);
        let ready_others = others.clone().filter(|replica| replica.is_ready).count();
        let mut others: Vec<_> = others
            .map(|replica| SocketAddr::new(replica.ip, self.port))
            .collect();
        others.sort_unstable();
        Replicas {
            others: Arc::from(others),
            ready_others,
            unchanged_since: self.is_list_complete().then_some(self.changed_at),
        }
    }

    /// Whether the list of replicas is complete: the first list of the watch has been received, and the Pod of this
    /// process is among the replicas.
    fn is_list_complete(&self) -> bool {
        self.is_synced && self.running.contains_key(&self.own_pod)
    }

    /// Returns the number of running replicas, or 0 while the list of replicas is incomplete.
    fn known_replicas(&self) -> i64 {
        let known = if self.is_list_complete() {
            self.running.len()
        } else {
            0
        };
        i64::try_from(known).unwrap_or(i64::MAX)
    }

    fn warn_if_own_pod_is_missing(&self) {
        if self.is_synced && !self.is_list_complete() {
            tracing::warn!(
                pod = %self.own_pod,
                "this replica is not among the Pods of the control plane, so it reports no endpoint removal as complete \
                 and does not rebalance proxies; check that POD_NAME and POD_NAMESPACE name this Pod and that its \
                 container is named {CONTAINER_NAME}; if the control plane runs outside of the cluster, ignore this \
                 warning"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn mk_replica(ip: &str, state: Value) -> Option<Replica> {
        mk_pod_replica(&json!({}), CONTAINER_NAME, ip, state)
    }

    fn mk_pod_replica(labels: &Value, container: &str, ip: &str, state: Value) -> Option<Replica> {
        let status = json!({
            "podIP": ip,
            "containerStatuses": [
                {"name": "logs", "state": {"running": {}}, "containerID": "containerd://0", "ready": true,
                 "image": "", "imageID": "", "restartCount": 0},
                {"name": container, "state": state, "containerID": format!("containerd://{ip}"), "ready": true,
                 "image": "", "imageID": "", "restartCount": 0},
            ],
        });
        let pod = json!({"metadata": {"name": "cp", "labels": labels}, "status": status});
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
    fn pod_is_a_replica_while_its_container_runs() {
        let running = mk_replica("10.0.0.1", json!({"running": {}})).expect("a replica");
        assert_eq!(running.ip.to_string(), "10.0.0.1");
        assert_eq!(running.container_id, "containerd://10.0.0.1");
        assert_eq!(mk_replica("10.0.0.1", json!({"waiting": {}})), None);
        // The Pod has no IP address.
        assert_eq!(mk_replica("", json!({"running": {}})), None);
        assert_eq!(running_replica(&Pod::default()), None);
    }

    #[test]
    fn pod_with_the_container_name_or_the_label_is_a_replica() {
        let running = json!({"running": {}});
        let replica = |labels: Value, container: &str| {
            mk_pod_replica(&labels, container, "10.0.0.1", running.clone())
                .map(|replica| replica.container_id)
        };
        let [label, other_label] = ["kuma-control-plane", "quarantined"].map(|value| json!({"app": value}));
        let second_container = Some("containerd://10.0.0.1".to_owned());
        assert_eq!(replica(label.clone(), CONTAINER_NAME), second_container);
        assert_eq!(replica(other_label.clone(), CONTAINER_NAME), second_container);
        // No container has the name, so the first running container counts as the replica.
        assert_eq!(replica(label, "kuma-cp"), Some("containerd://0".to_owned()));
        assert_eq!(replica(other_label, "kuma-cp"), None);
    }

    #[test]
    fn list_of_replicas_without_this_replica_is_incomplete() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mk_running = |ip| mk_replica(ip, json!({"running": {}})).expect("a replica");
        let mut tracker = ReplicaTracker::new(pod_key("a"), 5678, start);
        tracker.on_update(Update::Synced, at(0));
        assert_eq!(
            tracker.replicas().unchanged_since,
            None,
            "the list of replicas is empty"
        );
        tracker.on_update(Update::Applied(pod_key("b"), mk_running("10.0.0.2")), at(1));
        assert_eq!(
            (tracker.replicas().unchanged_since, tracker.known_replicas()),
            (None, 0),
            "the list of replicas has only another replica"
        );
        assert_eq!(others(&tracker), ["10.0.0.2:5678"]);
        tracker.on_update(Update::Applied(pod_key("a"), mk_running("10.0.0.1")), at(2));
        assert_eq!(
            (tracker.replicas().unchanged_since, tracker.known_replicas()),
            (Some(at(2)), 2),
            "the start of this replica is the last change"
        );
        tracker.on_update(Update::Gone(pod_key("a")), at(3));
        assert_eq!(tracker.replicas().unchanged_since, None);
        assert!(!tracker.replicas().are_stable());
    }

    #[test]
    fn start_or_end_of_a_replica_after_the_first_list_is_a_change() {
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
            "the first list of the watch is incomplete"
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
        // A restarted container is a new process.
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
