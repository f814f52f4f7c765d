//! A watch of Dataplanes of its own, which notes when each was there and when its health turned.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::StreamExt;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// What a watch has told so far.
#[derive(Debug)]
pub struct Notes {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    seen: Mutex<HashMap<String, Seen>>,
    changed: Notify,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    ready: bool,
    turned: Instant,
    counted: bool,
}

impl Notes {
    /// Starts watching.
    pub fn start(client: Client) -> Self {
        let kind = GroupVersionKind::gvk("kuma.io", "v1alpha1", "Dataplane");
        let resource = ApiResource::from_gvk(&kind);
        let api: Api<DynamicObject> = Api::all_with(client, &resource);
        let shared = Arc::new(Shared::default());
        let notes = shared.clone();
        let task = tokio::spawn(async move {
            let events = watcher(api, watcher::Config::default()).default_backoff();
            let mut applied = std::pin::pin!(events.applied_objects());
            while let Some(event) = applied.next().await {
                if let Ok(object) = event {
                    notes.note(&object, Instant::now());
                }
            }
        });
        Self { shared, task }
    }

    /// Waits until so many Dataplanes are there.
    ///
    /// # Errors
    /// When that takes longer than `most`.
    pub async fn until(&self, number: usize, most: Duration) -> Result<Instant> {
        self.wait(most, &format!("{number} Dataplanes"), |seen| {
            let last = seen.values().map(|seen| seen.turned).max();
            last.filter(|_| seen.len() >= number)
        })
        .await
    }

    /// Waits until the status of all of so many Dataplanes counts their inbounds.
    ///
    /// # Errors
    /// When that takes longer than `most`.
    pub async fn until_counted(&self, number: usize, most: Duration) -> Result<()> {
        self.wait(most, &format!("status of {number} Dataplanes"), |seen| {
            (seen.values().filter(|seen| seen.counted).count() >= number).then_some(())
        })
        .await
    }

    /// Waits until a Dataplane's health is as said; returns when it turned.
    ///
    /// # Errors
    /// When that takes longer than `most`.
    pub async fn until_ready(&self, name: &str, ready: bool, most: Duration) -> Result<Instant> {
        self.wait(most, name, |seen| {
            let seen = seen.get(name).filter(|seen| seen.ready == ready)?;
            Some(seen.turned)
        })
        .await
    }

    async fn wait<T>(
        &self,
        most: Duration,
        what: &str,
        arrived: impl Fn(&HashMap<String, Seen>) -> Option<T>,
    ) -> Result<T> {
        let wait = async {
            loop {
                let changed = self.shared.changed.notified();
                if let Some(found) = arrived(&self.shared.seen()) {
                    return found;
                }
                changed.await;
            }
        };
        let found = tokio::time::timeout(most, wait).await;
        found.with_context(|| format!("{what}: not after {most:?}; see target/bench/kuma-cp.log"))
    }
}

impl Drop for Notes {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn seen(&self) -> MutexGuard<'_, HashMap<String, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, object: &DynamicObject, now: Instant) {
        let ready = object.data["spec"]["networking"]["inbound"][0]["health"]["ready"] == true;
        let counted = object.data["status"]["inbounds"]["total"].is_number();
        let mut all = self.seen();
        let seen = all.entry(object.name_any()).or_insert(Seen {
            ready,
            turned: now,
            counted,
        });
        if seen.ready != ready {
            (seen.ready, seen.turned) = (ready, now);
        }
        seen.counted = counted;
        drop(all);
        // One waiter at a time.
        self.changed.notify_one();
    }
}
