//! The other replicas: where they serve proxies, and when one was last lost.
//!
//! Replicas do not talk to each other. They are told of to a departing sidecar, which asks each of them who may still send
//! it requests (`kermode_removals`).

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

/// What selects the Pods of a control plane, as installed.
const SELECTOR: &str = "app=kuma-control-plane";
/// The container that is the replica.
const CONTAINER: &str = "control-plane";
/// How many messages of the watch may wait.
const WAITING: usize = 16;

/// A Pod of the control plane, as far as it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Replica {
    ip: IpAddr,
    /// Another one is another process, which knows nothing of what the one before had.
    container_id: String,
    /// Whether it is behind the Service.
    ready: bool,
}

impl Replica {
    /// Whether a later look at the same Pod shows the same process.
    fn is_still(&self, later: &Self) -> bool {
        (self.ip, &self.container_id) == (later.ip, &later.container_id)
    }
}

/// The replicas that have been seen.
#[derive(Debug)]
struct Roll {
    /// The Pod that this process runs in.
    own: ObjectKey,
    /// Port at which replicas serve proxies.
    port: u16,
    running: HashMap<ObjectKey, Replica>,
    synced: bool,
    /// When one of the replicas last began or ended.
    since: Instant,
}

/// Follows the Pods of the control plane until the receiver goes away.
pub async fn keep(client: Client, own: ObjectKey, port: u16, replicas: watch::Sender<Replicas>) {
    let pods = Api::<Pod>::namespaced(client, &own.namespace);
    let (sink, mut updates) = mpsc::channel(WAITING);
    let following = follow(
        "pods of the control plane",
        watcher(pods, watch_config().labels(SELECTOR)),
        |pod: Pod| Conversion::from(replica(&pod)),
        |update| update,
        sink,
    );
    let noting = async {
        let mut roll = Roll::new(own, port, Instant::now());
        while let Some(update) = updates.recv().await {
            roll.note(update, Instant::now());
            replicas.send_replace(roll.replicas());
        }
    };
    tokio::join!(following, noting);
}

/// The replica that a Pod is, if its process runs. One that does not has no streams.
fn replica(pod: &Pod) -> Option<Replica> {
    let status = pod.status.as_ref()?;
    let is_running = |status: &&ContainerStatus| {
        let state = status.state.as_ref();
        status.name == CONTAINER && state.is_some_and(|state| state.running.is_some())
    };
    let running = status.container_statuses.iter().flatten().find(is_running)?;
    Some(Replica {
        ip: status.pod_ip.as_ref()?.parse().ok()?,
        container_id: running.container_id.clone()?,
        ready: running.ready && pod.metadata.deletion_timestamp.is_none(),
    })
}

// === impl Roll ===

impl Roll {
    fn new(own: ObjectKey, port: u16, now: Instant) -> Self {
        Self {
            own,
            port,
            running: HashMap::new(),
            synced: false,
            since: now,
        }
    }

    fn note(&mut self, update: Update<Replica>, now: Instant) {
        let (before, after) = match update {
            Update::Synced => {
                self.synced = true;
                return;
            }
            Update::Gone(pod) => (self.running.remove(&pod), None),
            Update::Applied(pod, replica) => (self.running.insert(pod, replica.clone()), Some(replica)),
        };
        let is_the_same = match (&before, &after) {
            (Some(before), Some(after)) => before.is_still(after),
            // Those of the first list have been there before.
            (None, Some(_)) => !self.synced,
            (_, None) => false,
        };
        if is_the_same {
            return;
        }
        self.since = now;
        if let Some(ended) = before {
            tracing::info!(address = %ended.ip, "a replica of the control plane has ended");
        }
    }

    fn replicas(&self) -> Replicas {
        let others = self.running.iter().filter(|(pod, _)| **pod != self.own);
        let others = others.map(|(_, replica)| replica);
        let ready = others.clone().filter(|replica| replica.ready).count();
        let mut others: Vec<_> = others
            .map(|replica| SocketAddr::new(replica.ip, self.port))
            .collect();
        others.sort_unstable();
        Replicas {
            others: Arc::from(others),
            ready,
            unchanged_since: self.synced.then_some(self.since),
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
                {"name": CONTAINER, "state": state, "containerID": format!("containerd://{ip}"), "ready": true,
                 "image": "", "imageID": "", "restartCount": 0},
            ],
        });
        let pod = json!({"metadata": {"name": "cp"}, "status": status});
        replica(&serde_json::from_value(pod).expect("a Pod"))
    }

    fn pod(name: &str) -> ObjectKey {
        ObjectKey::new("kong-mesh-system", name)
    }

    fn others(roll: &Roll) -> Vec<String> {
        roll.replicas().others.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_replica_is_one_whose_process_runs() {
        let running = mk_replica("10.0.0.1", json!({"running": {}})).expect("a replica");
        assert_eq!(running.ip.to_string(), "10.0.0.1");
        assert_eq!(running.container_id, "containerd://10.0.0.1");
        assert_eq!(mk_replica("10.0.0.1", json!({"waiting": {}})), None);
        assert_eq!(mk_replica("", json!({"running": {}})), None);
        assert_eq!(replica(&Pod::default()), None);
    }

    #[test]
    fn the_others_are_known_once_all_were_listed_and_an_end_is_remembered() {
        let start = Instant::now();
        let later = |seconds| start + Duration::from_secs(seconds);
        let one = |ip| mk_replica(ip, json!({"running": {}})).expect("a replica");
        let mut roll = Roll::new(pod("a"), 5678, start);
        for (name, ip) in [("a", "10.0.0.1"), ("c", "fd00::3"), ("b", "10.0.0.2")] {
            roll.note(Update::Applied(pod(name), one(ip)), later(1));
        }
        assert_eq!(roll.replicas().unchanged_since, None, "there may be more");
        roll.note(Update::Synced, later(1));
        assert_eq!(others(&roll), ["10.0.0.2:5678", "[fd00::3]:5678"]);
        assert_eq!(roll.replicas().unchanged_since, Some(start));

        // Readiness comes and goes without an end.
        assert_eq!(roll.replicas().ready, 2);
        let unready = Replica {
            ready: false,
            ..one("10.0.0.2")
        };
        roll.note(Update::Applied(pod("b"), unready), later(2));
        assert_eq!(
            (roll.replicas().ready, roll.replicas().unchanged_since),
            (1, Some(start))
        );
        // A container that was started again has other streams.
        let again = Replica {
            container_id: "containerd://again".to_owned(),
            ..one("10.0.0.2")
        };
        roll.note(Update::Applied(pod("b"), again), later(3));
        assert_eq!(
            (others(&roll).len(), roll.replicas().unchanged_since),
            (2, Some(later(3)))
        );
        roll.note(Update::Gone(pod("c")), later(4));
        assert_eq!(others(&roll), ["10.0.0.2:5678"]);
        assert_eq!(roll.replicas().unchanged_since, Some(later(4)));
        roll.note(Update::Applied(pod("d"), one("10.0.0.4")), later(5));
        assert_eq!(roll.replicas().unchanged_since, Some(later(5)));
    }
}
