//! Publishes the network of the CNI plugin to the namespaces of sidecars (docs/design.md#network-configuration-of-a-node).
//!
//! If the CNI plugin is not chained, Multus calls it for the network `kuma-cni`, which injection adds to the networks of
//! a Pod. The leader creates the `NetworkAttachmentDefinition` of this network in each namespace of sidecars. Without it,
//! Multus starts no injected Pod.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::StreamExt;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::core::{GroupVersionKind, PartialObjectMeta};
use kube::runtime::watcher::Event;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::failure::{describe, is_namespace_terminating, is_not_found};
use super::lease::while_leading;
use super::roots::SidecarNamespaces;
use super::watch::watch_config;
use super::writes::FailingWrites;

pub use super::writes::{Metrics, WriteResult};

/// Name of the network, and of the objects.
const NETWORK: &str = "kuma-cni";
/// Kind of the objects, for messages.
const KIND: &str = "NetworkAttachmentDefinition";
/// Field manager of the writes.
const FIELD_MANAGER: &str = "kuma-cp";

/// Writer of the objects.
pub struct NetworkAttachmentPublisher {
    /// Client of the API server.
    pub client: Client,
    /// Namespaces that need the object.
    pub namespaces: SidecarNamespaces,
    /// Whether this replica is the leader.
    pub is_leader: watch::Receiver<bool>,
    /// Metrics of the writes.
    pub metrics: Metrics,
}

/// Namespaces that have the object.
#[derive(Debug, Default)]
struct ObservedNamespaces {
    namespaces: BTreeSet<Arc<str>>,
    /// Namespaces of a list that is not complete yet.
    listed: BTreeSet<Arc<str>>,
    /// Whether a list was completed. Before, a missing object is not known to be missing.
    is_listed: bool,
}

// === impl NetworkAttachmentPublisher ===

impl NetworkAttachmentPublisher {
    /// Registers the metrics of the writes.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Writes of the NetworkAttachmentDefinitions of the CNI plugin";
        registry.register("network_attachment_writes", help, self.metrics.counter());
    }

    /// Maintains the objects while this replica leads, until the future is dropped.
    pub async fn run(self) {
        while_leading(self.is_leader.clone(), || self.maintain()).await;
    }

    async fn maintain(&self) {
        let api = Api::<PartialObjectMeta<DynamicObject>>::all_with(self.client.clone(), &resource());
        let config = watch_config().fields(&format!("metadata.name={NETWORK}"));
        let mut events = std::pin::pin!(watcher(api, config).default_backoff());
        let mut namespaces = self.namespaces.subscribe();
        let mut observed = ObservedNamespaces::default();
        let mut failing = FailingWrites::default();
        let mut is_watch_failing = false;
        loop {
            let mut is_retry = false;
            tokio::select! {
                Some(event) = events.next() => match event {
                    Ok(event) => {
                        is_watch_failing &= !matches!(event, Event::InitDone);
                        observed.on_event(event);
                    }
                    Err(error) => {
                        if !std::mem::replace(&mut is_watch_failing, true) {
                            log_watch_failure(&error);
                        }
                        continue;
                    }
                },
                Ok(()) = namespaces.changed() => {}
                () = failing.until_retry() => is_retry = true,
            }
            let missing = observed.missing(&namespaces.borrow_and_update());
            for namespace in failing.due(missing, is_retry) {
                let result = self.write(&namespace).await;
                self.on_result(namespace, result, &mut observed, &mut failing);
            }
        }
    }

    fn on_result(
        &self,
        namespace: Arc<str>,
        result: kube::Result<()>,
        observed: &mut ObservedNamespaces,
        failing: &mut FailingWrites,
    ) {
        match result {
            Ok(()) => {
                self.metrics.count(WriteResult::Written);
                tracing::info!(%namespace, "{KIND} {NETWORK} created");
                failing.on_written(&namespace);
                observed.namespaces.insert(namespace);
            }
            Err(error) if is_not_found(&error) => {
                // A Namespace or Pod of this name that comes later adds the namespace again.
                tracing::debug!(%namespace, "{KIND} {NETWORK} is not created: the Namespace does not exist");
                failing.on_written(&namespace);
                self.namespaces.remove(&namespace);
            }
            Err(error) if is_namespace_terminating(&error) => {
                // The watch of Namespaces has not delivered the deletion yet.
                tracing::debug!(%namespace, "{KIND} {NETWORK} is not created: the Namespace is being deleted");
                failing.on_failed(namespace);
            }
            Err(error) => {
                self.metrics.count(WriteResult::Failed);
                let message = describe(&format!("{KIND} {namespace}/{NETWORK} cannot be created"), &error);
                if failing.on_failed(namespace) {
                    tracing::warn!("{message}; retrying; Multus starts no injected Pod of the namespace");
                } else {
                    tracing::debug!("{message}; retrying");
                }
            }
        }
    }

    /// Creates the object. Members that other writers set are kept.
    async fn write(&self, namespace: &str) -> kube::Result<()> {
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &resource());
        let patch = Patch::Apply(definition(namespace));
        api.patch(NETWORK, &PatchParams::apply(FIELD_MANAGER), &patch)
            .await
            .map(drop)
    }
}

// === impl ObservedNamespaces ===

impl ObservedNamespaces {
    /// Applies an event of the watch.
    fn on_event(&mut self, event: Event<PartialObjectMeta<DynamicObject>>) {
        let namespace_of = |object: &PartialObjectMeta<DynamicObject>| -> Arc<str> {
            object.namespace().unwrap_or_default().into()
        };
        match event {
            Event::Init => self.listed.clear(),
            Event::InitApply(object) => {
                self.listed.insert(namespace_of(&object));
            }
            Event::InitDone => {
                self.namespaces = std::mem::take(&mut self.listed);
                self.is_listed = true;
            }
            Event::Apply(object) => {
                self.namespaces.insert(namespace_of(&object));
            }
            Event::Delete(object) => {
                self.namespaces.remove(&namespace_of(&object));
            }
        }
    }

    /// Returns the needed namespaces without the object.
    fn missing(&self, needed: &BTreeSet<Arc<str>>) -> Vec<Arc<str>> {
        if !self.is_listed {
            return Vec::new();
        }
        needed.difference(&self.namespaces).cloned().collect()
    }
}

/// Logs the first failure of the watch. The watch is repeated, so the objects are created once Multus is installed.
fn log_watch_failure(error: &watcher::Error) {
    match error {
        watcher::Error::InitialListFailed(source) if is_not_found(source) => tracing::warn!(
            "the cluster has no kind {KIND}; retrying; install Multus, or install the CNI plugin with --cni-chained"
        ),
        watcher::Error::InitialListFailed(source) => {
            let message = describe(&format!("{KIND}s {NETWORK} cannot be watched"), source);
            tracing::warn!("{message}; retrying");
        }
        _ => tracing::warn!("{KIND}s {NETWORK} cannot be watched: {error}; retrying"),
    }
}

/// The kind of Multus. Its objects have the same form in all versions.
fn resource() -> ApiResource {
    let kind = GroupVersionKind::gvk("k8s.cni.cncf.io", "v1", KIND);
    ApiResource::from_gvk_with_plural(&kind, "network-attachment-definitions")
}

/// Returns the object. It has no configuration: Multus reads that of the node, which the installer of the plugin writes.
fn definition(namespace: &str) -> Value {
    json!({
        "apiVersion": "k8s.cni.cncf.io/v1",
        "kind": KIND,
        "metadata": {
            "name": NETWORK,
            "namespace": namespace,
            "labels": {"app.kubernetes.io/managed-by": "kuma-cp"},
        },
    })
}
