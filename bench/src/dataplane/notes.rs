//! A watch of Dataplanes that records when each appeared and when its health changed.

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

/// State of all watched Dataplanes.
#[derive(Debug)]
pub struct DataplaneWatch {
    observations: Arc<Observations>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Observations {
    seen: Mutex<HashMap<String, Observed>>,
    changed: Notify,
}

#[derive(Clone, Copy, Debug)]
struct Observed {
    ready: bool,
    changed_at: Instant,
    counted: bool,
}

impl DataplaneWatch {
    /// Starts watching.
    pub fn start(client: Client) -> Self {
        let kind = GroupVersionKind::gvk("kuma.io", "v1alpha1", "Dataplane");
        let resource = ApiResource::from_gvk(&kind);
        let api: Api<DynamicObject> = Api::all_with(client, &resource);
        let observations = Arc::new(Observations::default());
        let recorder = observations.clone();
        let task = tokio::spawn(async move {
            let events = watcher(api, watcher::Config::default()).default_backoff();
            let mut applied = std::pin::pin!(events.applied_objects());
            while let Some(event) = applied.next().await {
                if let Ok(object) = event {
                    recorder.record(&object, Instant::now());
                }
            }
        });
        Self { observations, task }
    }

    /// Waits until `number` Dataplanes exist. Returns the time at which the last one appeared or changed.
    ///
    /// # Errors
    /// When that takes longer than `timeout`.
    pub async fn until(&self, number: usize, timeout: Duration) -> Result<Instant> {
        self.wait(timeout, &format!("{number} Dataplanes"), |seen| {
            let last = seen.values().map(|seen| seen.changed_at).max();
            last.filter(|_| seen.len() >= number)
        })
        .await
    }

    /// Waits until `number` Dataplanes have a status that counts their inbounds.
    ///
    /// # Errors
    /// When that takes longer than `timeout`.
    pub async fn until_counted(&self, number: usize, timeout: Duration) -> Result<()> {
        self.wait(timeout, &format!("status of {number} Dataplanes"), |seen| {
            (seen.values().filter(|seen| seen.counted).count() >= number).then_some(())
        })
        .await
    }

    /// Waits until a Dataplane is ready or unready. Returns the time of the change.
    ///
    /// # Errors
    /// When that takes longer than `timeout`.
    pub async fn until_ready(&self, name: &str, ready: bool, timeout: Duration) -> Result<Instant> {
        self.wait(timeout, name, |seen| {
            let seen = seen.get(name).filter(|seen| seen.ready == ready)?;
            Some(seen.changed_at)
        })
        .await
    }

    async fn wait<T>(
        &self,
        timeout: Duration,
        name: &str,
        condition: impl Fn(&HashMap<String, Observed>) -> Option<T>,
    ) -> Result<T> {
        let wait = async {
            loop {
                let changed = self.observations.changed.notified();
                if let Some(found) = condition(&self.observations.seen()) {
                    return found;
                }
                changed.await;
            }
        };
        let found = tokio::time::timeout(timeout, wait).await;
        found.with_context(|| format!("{name}: not observed after {timeout:?}; see target/bench/kuma-cp.log"))
    }
}

impl Drop for DataplaneWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Observations {
    fn seen(&self) -> MutexGuard<'_, HashMap<String, Observed>> {
        self.seen.lock()
    }

    fn record(&self, object: &DynamicObject, now: Instant) {
        let ready = object.data["spec"]["networking"]["inbound"][0]["health"]["ready"] == true;
        let counted = object.data["status"]["inbounds"]["total"].is_number();
        let mut all = self.seen();
        let seen = all.entry(object.name_any()).or_insert(Observed {
            ready,
            changed_at: now,
            counted,
        });
        if seen.ready != ready {
            (seen.ready, seen.changed_at) = (ready, now);
        }
        seen.counted = counted;
        drop(all);
        // At most one task waits.
        self.changed.notify_one();
    }
}
