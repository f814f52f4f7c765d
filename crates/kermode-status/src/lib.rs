//! Status of Dataplanes, Meshes and MeshTrafficPermissions, and Events about closed ports, written to the API server.
//!
//! Each replica writes the connection and configuration status of the proxies that it serves ([`ProxyStatuses`]).
//! Connections and rejections are written within seconds. The sent and acknowledged configuration versions are written
//! only every few minutes, because every change of an endpoint in the mesh changes them. The leader writes the status
//! of Meshes ([`MeshStatuses`]) and of MeshTrafficPermissions ([`PermissionStatuses`]). The replica that receives a sidecar's report about a closed port writes the Event
//! ([`ClosedPortService`]).

mod closed_ports;
mod debug;
mod mesh;
mod permission;
mod proxy;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use k8s_openapi::jiff::Timestamp;
use kermode_crds::Dataplane;
use kermode_k8s::controller::status::{DesiredStatus, StatusSource, StatusWriter, WriteOutcome};
use kermode_k8s::controller::writer::Metrics;
use kermode_k8s::shared_index::SharedIndex;
use kermode_model::ObjectKey;
use kermode_protocol::debug::{ConnectedProxy, Proxies};
use kermode_xds::server::{ProxyId, Report, StatusSink};
use kube::{Api, Client};
use parking_lot::{Mutex, MutexGuard};

pub use self::closed_ports::{ClosedPortMetrics, ClosedPortService};
pub use self::mesh::MeshStatuses;
pub use self::permission::PermissionStatuses;
pub use self::proxy::ProxySummary;
use self::proxy::{ProxyState, Urgency};

/// Field manager of the sidecar status. All replicas use the same field manager, so that a replica can overwrite the
/// status that another replica wrote before the proxy reconnected.
const MANAGER: &str = "kuma-cp-sidecar";
/// Maximum number of statuses written per second.
const MAX_WRITES_PER_SECOND: u32 = 50;
/// Delay of a write after a proxy connects or rejects a resource. A new proxy usually acknowledges its configuration
/// within this time, so that one write covers the connection and the acknowledgement.
const CHANGE_DELAY: Duration = Duration::from_secs(1);
/// Delay of a write after a stream ended. Most proxies reconnect within this time, to this replica or to another. Their
/// disconnection is then not written.
const DISCONNECT_DELAY: Duration = Duration::from_secs(10);
/// Minimum interval between writes that only change configuration versions. Without this limit, a change of an endpoint
/// would cause a write for every proxy of the mesh.
const VERSION_WRITE_INTERVAL: Duration = Duration::from_mins(5);
/// Delay of a retry when the Dataplane does not exist. A sidecar may connect before the leader has created its
/// Dataplane.
const MISSING_DATAPLANE_RETRY: Duration = Duration::from_secs(2);

/// Statuses of the proxies that this replica serves, and their writer; cheap to clone.
#[derive(Clone)]
pub struct ProxyStatuses {
    state: Arc<StatusesState>,
}

struct StatusesState {
    client: Client,
    index: SharedIndex,
    /// Name of this replica.
    replica: Arc<str>,
    /// Connected proxies, and disconnected proxies whose last status is not written yet.
    proxies: Mutex<HashMap<ObjectKey, ProxyState>>,
    writer: StatusWriter,
}

impl ProxyStatuses {
    /// Creates the statuses of a replica that serves no proxies yet.
    pub fn new(client: Client, index: SharedIndex, replica: &str) -> Self {
        Self {
            state: Arc::new(StatusesState {
                client,
                index,
                replica: replica.into(),
                proxies: Mutex::default(),
                writer: StatusWriter::new(MANAGER, MAX_WRITES_PER_SECOND),
            }),
        }
    }

    /// Returns the sidecar status of every connected proxy, by proxy name (`<pod>.<namespace>`).
    pub fn connected_proxies(&self) -> Proxies {
        let proxies = self.state.proxies();
        let connected = proxies.iter().filter_map(|(key, proxy)| {
            let proxy = self.state.connected_proxy(proxy)?;
            Some((key.proxy_name(), proxy))
        });
        connected.collect()
    }

    /// Returns the sidecar status of one proxy; `None` if it is not connected.
    pub fn connected_proxy(&self, key: &ObjectKey) -> Option<ConnectedProxy> {
        self.state.connected_proxy(self.state.proxies().get(key)?)
    }

    /// Returns the summaries of all connected proxies. A summary contains no text, so thousands of them take little time.
    pub fn connected_summaries(&self) -> HashMap<ObjectKey, ProxySummary> {
        let proxies = self.state.proxies();
        let connected = proxies
            .iter()
            .filter_map(|(key, proxy)| Some((key.clone(), proxy.summary()?)));
        connected.collect()
    }

    /// Returns the summary of one proxy; `None` if it is not connected.
    pub fn connected_summary(&self, key: &ObjectKey) -> Option<ProxySummary> {
        self.state.proxies().get(key)?.summary()
    }

    /// Handles the deletion of a Dataplane. If its proxy is connected, the status is written again once the leader has
    /// recreated the Dataplane.
    pub fn on_dataplane_deleted(&self, key: &ObjectKey) {
        let is_connected = self
            .state
            .proxies()
            .get(key)
            .is_some_and(ProxyState::is_connected);
        if is_connected {
            self.state.writer.push(key.clone(), Instant::now() + CHANGE_DELAY);
        }
    }

    /// Writes statuses until the future is dropped.
    pub async fn run(self, metrics: Metrics) {
        let StatusesState { client, writer, .. } = &*self.state;
        writer.run(client.clone(), &*self.state, &metrics).await;
    }
}

impl StatusSink for ProxyStatuses {
    fn report(&self, proxy: &ProxyId, stream: u64, report: Report<'_>) {
        let now = Instant::now();
        let mut proxies = self.state.proxies();
        let entry = proxies.entry(proxy.key.clone()).or_default();
        let write_at = match entry.on_report(stream, &report, Timestamp::now()) {
            Urgency::None => return,
            Urgency::Soon => now + CHANGE_DELAY,
            Urgency::Disconnected => now + DISCONNECT_DELAY,
            Urgency::Versions => entry.written_at.map_or(now + CHANGE_DELAY, |written_at| {
                (written_at + VERSION_WRITE_INTERVAL).max(now + CHANGE_DELAY)
            }),
        };
        drop(proxies);
        self.state.writer.push(proxy.key.clone(), write_at);
    }
}

impl StatusesState {
    fn proxies(&self) -> MutexGuard<'_, HashMap<ObjectKey, ProxyState>> {
        self.proxies.lock()
    }

    /// Returns the sidecar status of a proxy; `None` if it is not connected.
    fn connected_proxy(&self, proxy: &ProxyState) -> Option<ConnectedProxy> {
        let sidecar = proxy
            .is_connected()
            .then(|| proxy.status(&self.replica).sidecar)?;
        sidecar.map(debug::connected_proxy)
    }

    /// Returns the status of a disconnected proxy. Returns `None` if the proxy has reconnected.
    ///
    /// Also returns `None`, and removes the proxy from `proxies`, if the Dataplane does not exist or if another replica
    /// wrote the Dataplane's current status.
    async fn disconnected_status(&self, key: &ObjectKey) -> kube::Result<Option<DesiredStatus>> {
        let api: Api<Dataplane> = Api::namespaced(self.client.clone(), &key.namespace);
        let current = api.get_opt(&key.name).await?;
        let dataplane_with_own_status = current.filter(|current| {
            let sidecar = current.status.as_ref().and_then(|status| status.sidecar.as_ref());
            sidecar.is_some_and(|sidecar| sidecar.control_plane == *self.replica)
        });
        let mut proxies = self.proxies();
        // The proxy may have reconnected during the request.
        let Some(proxy) = proxies.get_mut(key).filter(|proxy| !proxy.is_connected()) else {
            return Ok(None);
        };
        let Some(current) = dataplane_with_own_status else {
            proxies.remove(key);
            return Ok(None);
        };
        proxy.is_writing_last_status = true;
        Ok(Some(DesiredStatus {
            status: proxy.status(&self.replica),
            resource_version: current.metadata.resource_version,
        }))
    }
}

impl StatusSource for StatusesState {
    fn desired_status<'a>(
        &'a self,
        key: &'a ObjectKey,
    ) -> BoxFuture<'a, kube::Result<Option<DesiredStatus>>> {
        Box::pin(async move {
            {
                let mut proxies = self.proxies();
                let Some(proxy) = proxies.get(key) else {
                    return Ok(None);
                };
                if proxy.is_connected() {
                    return Ok(Some(DesiredStatus {
                        status: proxy.status(&self.replica),
                        resource_version: None,
                    }));
                }
                // If the index has no Dataplane of the proxy, the leader is about to delete the Dataplane, which then
                // needs no status.
                if self.index.read().desired(key).is_none() {
                    proxies.remove(key);
                    return Ok(None);
                }
            }
            self.disconnected_status(key).await
        })
    }

    fn on_write_outcome(&self, key: &ObjectKey, outcome: WriteOutcome) {
        let now = Instant::now();
        let mut proxies = self.proxies();
        let Some(proxy) = proxies.get_mut(key) else {
            return;
        };
        if proxy.is_writing_last_status {
            proxies.remove(key);
            return;
        }
        proxy.written_at = Some(now);
        if outcome == WriteOutcome::Missing {
            self.writer.push(key.clone(), now + MISSING_DATAPLANE_RETRY);
        }
    }
}

#[cfg(test)]
mod tests;
