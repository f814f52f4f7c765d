//! Publishes the roots of the control plane to its sidecars (docs/design.md#roots-of-the-control-plane).
//!
//! The leader maintains a ConfigMap in each namespace of sidecars. The kubelet projects the ConfigMap into the Pods, and
//! updates their files when the ConfigMap changes.

mod metrics;
mod observed;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kermode_model::{CONTROL_PLANE_CA_CONFIG_MAP as CONFIG_MAP, CONTROL_PLANE_CA_ENTRY as ENTRY};
use kube::api::{Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use self::observed::ObservedConfigMaps;
use super::failure::{describe, is_namespace_terminating, is_not_found};
use super::lease::while_leading;
use super::watch::watch_config;

pub use self::metrics::{Metrics, WriteResult};

/// Labels of the ConfigMap.
const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "kuma-cp");
/// Field manager of the writes.
const FIELD_MANAGER: &str = "kuma-cp";
/// Pause before failed writes are repeated. A Pod starts without the ConfigMap, so the pause delays nothing.
const RETRY_PAUSE: Duration = Duration::from_secs(10);
/// Number of concurrent writes. A new root has to reach every namespace of the cluster.
const MAX_CONCURRENT_WRITES: usize = 8;

/// Roots of the control plane, in PEM. The value changes when the CA of the control plane changes.
pub type RootsReceiver = watch::Receiver<Arc<str>>;

/// Namespaces that have sidecars, or in which injection is enabled; cheap to clone. The engine updates the set.
#[derive(Clone, Debug, Default)]
pub struct SidecarNamespaces(watch::Sender<BTreeSet<Arc<str>>>);

/// Writer of the ConfigMaps.
pub struct RootsPublisher {
    /// Client of the API server.
    pub client: Client,
    /// Namespaces that need the ConfigMap.
    pub namespaces: SidecarNamespaces,
    /// Roots to publish.
    pub roots: RootsReceiver,
    /// Whether this replica is the leader.
    pub is_leader: watch::Receiver<bool>,
    /// Metrics of the writes.
    pub metrics: Metrics,
}

/// Namespaces whose last write failed.
#[derive(Debug, Default)]
struct FailingWrites {
    namespaces: BTreeSet<Arc<str>>,
    /// Time of the next retry.
    retry_at: Option<Instant>,
}

// === impl SidecarNamespaces ===

impl SidecarNamespaces {
    /// Adds a namespace.
    pub fn add(&self, namespace: &Arc<str>) {
        self.0.send_if_modified(|namespaces| {
            // Most calls are about a known namespace.
            !namespaces.contains(namespace) && namespaces.insert(namespace.clone())
        });
    }

    /// Removes a namespace that is deleted or terminating. Kubernetes deletes its ConfigMap.
    pub fn remove(&self, namespace: &str) {
        self.0.send_if_modified(|namespaces| namespaces.remove(namespace));
    }

    /// Whether the set contains a namespace.
    pub fn contains(&self, namespace: &str) -> bool {
        self.0.borrow().contains(namespace)
    }
}

// === impl RootsPublisher ===

impl RootsPublisher {
    /// Maintains the ConfigMaps while this replica leads, until the future is dropped.
    pub async fn run(self) {
        while_leading(self.is_leader.clone(), || self.maintain()).await;
    }

    async fn maintain(&self) {
        let api: Api<ConfigMap> = Api::all(self.client.clone());
        let config = watch_config().fields(&format!("metadata.name={CONFIG_MAP}"));
        let mut events = std::pin::pin!(watcher(api, config).default_backoff());
        let mut namespaces = self.namespaces.0.subscribe();
        let mut roots = self.roots.clone();
        let mut observed = ObservedConfigMaps::default();
        let mut failing = FailingWrites::default();
        loop {
            let mut is_retry = false;
            tokio::select! {
                Some(event) = events.next() => match event {
                    Ok(event) => observed.on_event(event),
                    Err(error) => {
                        tracing::warn!("ConfigMaps {CONFIG_MAP} cannot be watched: {error}; retrying");
                        continue;
                    }
                },
                Ok(()) = namespaces.changed() => {}
                Ok(()) = roots.changed() => {}
                () = failing.until_retry() => is_retry = true,
            }
            let current = roots.borrow_and_update().clone();
            let outdated = observed.outdated(&namespaces.borrow_and_update(), &current);
            let due = failing.due(outdated, is_retry);
            self.write_all(due, &current, &mut observed, &mut failing).await;
        }
    }

    /// Writes the ConfigMaps of these namespaces.
    async fn write_all(
        &self,
        outdated: Vec<Arc<str>>,
        roots: &Arc<str>,
        observed: &mut ObservedConfigMaps,
        failing: &mut FailingWrites,
    ) {
        let writes = outdated.into_iter().map(|namespace| async {
            let result = self.write(&namespace, roots).await;
            (namespace, result)
        });
        let mut results = futures::stream::iter(writes).buffer_unordered(MAX_CONCURRENT_WRITES);
        while let Some((namespace, result)) = results.next().await {
            match result {
                Ok(()) => {
                    self.metrics.count(WriteResult::Written);
                    tracing::info!(%namespace, "ConfigMap {CONFIG_MAP} with the roots of the control plane written");
                    failing.on_written(&namespace);
                    observed.on_written(namespace, roots.clone());
                }
                Err(error) if is_not_found(&error) => {
                    // A Namespace or Pod of this name that comes later adds the namespace again.
                    tracing::debug!(%namespace, "ConfigMap {CONFIG_MAP} is not written: the Namespace does not exist");
                    failing.on_written(&namespace);
                    self.namespaces.remove(&namespace);
                }
                Err(error) if is_namespace_terminating(&error) => {
                    // The watch of Namespaces has not delivered the deletion yet.
                    tracing::debug!(%namespace, "ConfigMap {CONFIG_MAP} is not written: the Namespace is being deleted");
                    failing.on_failed(namespace);
                }
                Err(error) => {
                    self.metrics.count(WriteResult::Failed);
                    let failure = format!("ConfigMap {namespace}/{CONFIG_MAP} cannot be written");
                    let message = describe(&failure, &error);
                    if failing.on_failed(namespace) {
                        tracing::warn!(
                            "{message}; retrying; the sidecars of the namespace do not follow a new CA of the control plane; if the \
                             ConfigMap is immutable or has binaryData, delete it"
                        );
                    } else {
                        tracing::debug!("{message}; retrying");
                    }
                }
            }
        }
    }

    /// Creates or updates a ConfigMap. Entries and labels of other writers are kept.
    async fn write(&self, namespace: &str, roots: &str) -> kube::Result<()> {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let patch = Patch::Apply(config_map(namespace, roots));
        api.patch(CONFIG_MAP, &params, &patch).await.map(drop)
    }
}

// === impl FailingWrites ===

impl FailingWrites {
    /// Waits until failed writes are to be repeated; forever if there are none.
    async fn until_retry(&self) {
        match self.retry_at {
            Some(at) => sleep_until(at).await,
            None => std::future::pending().await,
        }
    }

    /// Returns the outdated namespaces to write now. A failed write is repeated only by a retry. A retry forgets the
    /// namespaces that no longer need a write.
    fn due(&mut self, mut outdated: Vec<Arc<str>>, is_retry: bool) -> Vec<Arc<str>> {
        if is_retry {
            self.retry_at = None;
            self.namespaces.retain(|namespace| outdated.contains(namespace));
        } else {
            outdated.retain(|namespace| !self.namespaces.contains(namespace));
        }
        outdated
    }

    fn on_written(&mut self, namespace: &str) {
        self.namespaces.remove(namespace);
    }

    /// Records a failed write. Returns whether the previous write of the namespace had not failed.
    fn on_failed(&mut self, namespace: Arc<str>) -> bool {
        self.retry_at.get_or_insert_with(|| Instant::now() + RETRY_PAUSE);
        self.namespaces.insert(namespace)
    }
}

fn config_map(namespace: &str, roots: &str) -> Value {
    let (label, value) = MANAGED_BY;
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": CONFIG_MAP, "namespace": namespace, "labels": {label: value}},
        "data": {ENTRY: roots},
    })
}
