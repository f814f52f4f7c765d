//! A watch of Dataplanes that records when each Dataplane appeared and when its readiness last changed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::StreamExt;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// A running watch of Dataplanes, with the last state of each Dataplane. A deleted Dataplane keeps its last state.
#[derive(Debug)]
pub struct DataplaneWatch {
    observed: Arc<Observed>,
    task: JoinHandle<()>,
}

/// State that the watch task shares with the task that waits for changes.
#[derive(Debug, Default)]
struct Observed {
    /// Dataplanes by name.
    dataplanes: Mutex<HashMap<String, DataplaneState>>,
    /// Notified after each change of `dataplanes`.
    changed: Notify,
}

#[derive(Clone, Copy, Debug)]
struct DataplaneState {
    /// Whether the first inbound is ready.
    ready: bool,
    /// Time at which the Dataplane appeared or `ready` last changed.
    changed_at: Instant,
    /// Whether the status counts the inbounds.
    has_status: bool,
}

impl DataplaneWatch {
    /// Starts watching.
    pub fn start(client: Client) -> Self {
        let kind = GroupVersionKind::gvk("kuma.io", "v1alpha1", "Dataplane");
        let resource = ApiResource::from_gvk(&kind);
        let api: Api<DynamicObject> = Api::all_with(client, &resource);
        let observed = Arc::new(Observed::default());
        let recorder = observed.clone();
        let task = tokio::spawn(async move {
            let events = watcher(api, watcher::Config::default()).default_backoff();
            let mut applied = std::pin::pin!(events.applied_objects());
            while let Some(result) = applied.next().await {
                if let Ok(object) = result {
                    recorder.record(&object, Instant::now());
                }
            }
        });
        Self { observed, task }
    }

    /// Waits until the watch has delivered `count` Dataplanes. Returns the last time at which any of them appeared or
    /// changed its readiness.
    ///
    /// # Errors
    /// When that takes longer than `timeout`.
    pub async fn wait_for_count(&self, count: usize, timeout: Duration) -> Result<Instant> {
        self.wait_for(timeout, &format!("{count} Dataplanes"), |dataplanes| {
            let last = dataplanes.values().map(|dataplane| dataplane.changed_at).max();
            last.filter(|_| dataplanes.len() >= count)
        })
        .await
    }

    /// Waits until `count` Dataplanes have a status that counts their inbounds.
    ///
    /// # Errors
    /// When that takes longer than `timeout`.
    pub async fn wait_for_statuses(&self, count: usize, timeout: Duration) -> Result<()> {
        self.wait_for(timeout, &format!("status of {count} Dataplanes"), |dataplanes| {
            let with_status = dataplanes.values().filter(|dataplane| dataplane.has_status);
            (with_status.count() >= count).then_some(())
        })
        .await
    }

    /// Waits until the readiness of a Dataplane is `ready`. Returns the time at which the Dataplane appeared or last
    /// changed its readiness.
    ///
    /// # Errors
    /// When that takes longer than `timeout`.
    pub async fn wait_for_readiness(&self, name: &str, ready: bool, timeout: Duration) -> Result<Instant> {
        let condition_name = format!("Dataplane {name} with readiness {ready}");
        self.wait_for(timeout, &condition_name, |dataplanes| {
            let dataplane = dataplanes
                .get(name)
                .filter(|dataplane| dataplane.ready == ready)?;
            Some(dataplane.changed_at)
        })
        .await
    }

    /// Waits until `condition` returns a value. The error of a timeout contains `condition_name`.
    async fn wait_for<T>(
        &self,
        timeout: Duration,
        condition_name: &str,
        condition: impl Fn(&HashMap<String, DataplaneState>) -> Option<T>,
    ) -> Result<T> {
        let wait = async {
            loop {
                let changed = self.observed.changed.notified();
                if let Some(found) = condition(&self.observed.dataplanes()) {
                    return found;
                }
                changed.await;
            }
        };
        let result = tokio::time::timeout(timeout, wait).await;
        result.with_context(|| {
            format!("{condition_name}: not observed after {timeout:?}; see target/bench/kuma-cp.log")
        })
    }
}

impl Drop for DataplaneWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Observed {
    fn dataplanes(&self) -> MutexGuard<'_, HashMap<String, DataplaneState>> {
        self.dataplanes.lock()
    }

    fn record(&self, object: &DynamicObject, now: Instant) {
        let ready = object.data["spec"]["networking"]["inbound"][0]["health"]["ready"] == true;
        let has_status = object.data["status"]["inbounds"]["total"].is_number();
        let mut dataplanes = self.dataplanes();
        let dataplane = dataplanes.entry(object.name_any()).or_insert(DataplaneState {
            ready,
            changed_at: now,
            has_status,
        });
        if dataplane.ready != ready {
            dataplane.ready = ready;
            dataplane.changed_at = now;
        }
        dataplane.has_status = has_status;
        drop(dataplanes);
        // At most one task waits.
        self.changed.notify_one();
    }
}
