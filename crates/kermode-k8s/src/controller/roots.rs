//! Publishes the roots of the control plane to its sidecars (docs/design.md#roots-of-the-control-plane).
//!
//! The leader maintains a ConfigMap in each namespace of sidecars. The kubelet projects the ConfigMap into the Pods, and
//! updates their files when the ConfigMap changes.

mod observed;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kermode_model::{CONTROL_PLANE_CA_CONFIG_MAP as CONFIG_MAP, CONTROL_PLANE_CA_ENTRY as ENTRY};
use kube::api::{Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::sync::watch;

use self::observed::ObservedConfigMaps;
use super::failure::{describe, is_namespace_terminating, is_not_found};
use super::lease::while_leading;
use super::watch::watch_config;
use super::writes::FailingWrites;

pub use super::writes::{Metrics, WriteResult};

/// Labels of the ConfigMap.
const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "kuma-cp");
/// Field manager of the writes.
const FIELD_MANAGER: &str = "kuma-cp";
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

    /// Returns a receiver of the set.
    pub(super) fn subscribe(&self) -> watch::Receiver<BTreeSet<Arc<str>>> {
        self.0.subscribe()
    }

    /// Whether the set contains a namespace.
    pub fn contains(&self, namespace: &str) -> bool {
        self.0.borrow().contains(namespace)
    }
}

// === impl RootsPublisher ===

impl RootsPublisher {
    /// Registers the metrics of the writes.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Writes of the ConfigMaps with the roots of the control plane";
        registry.register("control_plane_ca_writes", help, self.metrics.counter());
    }

    /// Maintains the ConfigMaps while this replica leads, until the future is dropped.
    pub async fn run(self) {
        while_leading(self.is_leader.clone(), || self.maintain()).await;
    }

    async fn maintain(&self) {
        let api: Api<ConfigMap> = Api::all(self.client.clone());
        let config = watch_config().fields(&format!("metadata.name={CONFIG_MAP}"));
        let mut events = std::pin::pin!(watcher(api, config).default_backoff());
        let mut namespaces = self.namespaces.subscribe();
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

fn config_map(namespace: &str, roots: &str) -> Value {
    let (label, value) = MANAGED_BY;
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": CONFIG_MAP, "namespace": namespace, "labels": {label: value}},
        "data": {ENTRY: roots},
    })
}
