//! The page of a replica: the Dataplanes with their health and configuration, the services with their permissions, recent
//! decisions of the injection webhook, and the expiry of certificates.
//!
//! `kuma-cp` serves [`router`] on loopback, beside `/debug`, behind the [`guard`]. `kubectl port-forward` reaches the port with
//! the rights of the user. The page is read-only and contains neither keys nor tokens. The
//! model of the page is pure: [`dataplanes`] and [`graph`] convert the mesh view to the types of the JSON.
//! docs/reference/page.md describes the paths.

pub mod dataplanes;
pub mod detail;
pub mod events;
#[cfg(any(test, feature = "example"))]
pub mod example;
pub mod graph;
pub mod guard;
mod routes;
mod snapshot;

use std::collections::HashMap;
use std::sync::Arc;

use kermode_admission::RecentDecisions;
use kermode_authorities::Expiries;
use kermode_k8s::shared_index::SharedIndex;
use kermode_model::ObjectKey;
use kermode_model::view::MeshView;
use kermode_protocol::debug::ConnectedProxy;
use kermode_status::{ProxyStatuses, ProxySummary};

pub use self::routes::router;

/// Source of the state of the proxies that are connected to the replica.
pub trait ProxySource: Send + Sync + 'static {
    /// Returns the summaries of all connected proxies.
    fn summaries(&self) -> HashMap<ObjectKey, ProxySummary>;
    /// Returns the summary of one proxy; `None` if it is not connected to the replica.
    fn summary(&self, key: &ObjectKey) -> Option<ProxySummary>;
    /// Returns the state of one proxy; `None` if it is not connected to the replica.
    fn proxy(&self, key: &ObjectKey) -> Option<ConnectedProxy>;
}

/// Source of the mesh view.
pub trait ViewSource: Send + Sync + 'static {
    /// Calls `read` once with the view. The view is locked during the call, so the page only copies from it.
    fn with_view(&self, read: &mut dyn FnMut(&MeshView));
}

/// State that the page shows; cheap to clone.
#[derive(Clone)]
pub struct Sources {
    /// Name of the replica.
    pub replica: Arc<str>,
    /// The mesh view.
    pub view: Arc<dyn ViewSource>,
    /// State of the proxies.
    pub proxies: Arc<dyn ProxySource>,
    /// Decisions of the injection webhook.
    pub decisions: RecentDecisions,
    /// Certificates that the replica knows.
    pub expiries: Expiries,
}

impl Sources {
    /// Returns what `copy` copies from the view.
    fn copy_from_view<T: Default>(&self, copy: impl Fn(&MeshView) -> T) -> T {
        let mut copied = T::default();
        self.view.with_view(&mut |view| copied = copy(view));
        copied
    }
}

impl ViewSource for SharedIndex {
    fn with_view(&self, read: &mut dyn FnMut(&MeshView)) {
        read(self.read().view());
    }
}

impl ProxySource for ProxyStatuses {
    fn summaries(&self) -> HashMap<ObjectKey, ProxySummary> {
        self.connected_summaries()
    }

    fn summary(&self, key: &ObjectKey) -> Option<ProxySummary> {
        self.connected_summary(key)
    }

    fn proxy(&self, key: &ObjectKey) -> Option<ConnectedProxy> {
        self.connected_proxy(key)
    }
}
