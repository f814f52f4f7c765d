//! What this replica knows of the proxies that it serves, written onto the status of their Dataplanes.
//!
//! Streams report on their own tasks; here that is a look into a map. Writing is somebody else's ([`StatusWriter`]):
//! soon after what an operator waits for, such as a connection or a rejection, rarely for versions alone, which
//! change with every endpoint of the mesh.

mod mesh;
mod proxy;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use k8s_openapi::jiff::Timestamp;
use kermode_crds::Dataplane;
use kermode_k8s::controller::status::{StatusSource, StatusWriter, WantedStatus, WriteOutcome};
use kermode_k8s::controller::writer::Metrics;
use kermode_model::ObjectKey;
use kermode_xds::server::{ProxyId, Report, StatusSink};
use kube::{Api, Client};

use self::proxy::{Proxy, Urgency};
use kermode_k8s::shared_index::SharedIndex;
pub use mesh::MeshStatuses;

/// The field manager of this part of the status, the same for all replicas: the one that serves takes it over.
const MANAGER: &str = "kuma-cp-sidecar";
/// How many statuses are written a second.
const PER_SECOND: u32 = 50;
/// How long what matters waits for more of it: a proxy that connects acknowledges within that time.
const SOON: Duration = Duration::from_secs(1);
/// How long an end of a stream waits: most proxies come back, here or to another replica.
const GONE: Duration = Duration::from_secs(10);
/// How old versions may be on the status. Every change of an endpoint changes them for every proxy of the mesh; a write for
/// each of them would be no part of serving.
const RARELY: Duration = Duration::from_mins(5);
/// How long after a connection its Dataplane may not be there yet.
const MISSING: Duration = Duration::from_secs(2);

/// The proxies of this replica; cheap to clone.
#[derive(Clone)]
pub struct Statuses {
    shared: Arc<Shared>,
}

struct Shared {
    client: Client,
    index: SharedIndex,
    /// Name of this replica.
    instance: Arc<str>,
    proxies: Mutex<HashMap<ObjectKey, Proxy>>,
    writer: StatusWriter,
}

impl Statuses {
    /// Of a replica that serves nobody yet.
    pub fn new(client: Client, index: SharedIndex, instance: &str) -> Self {
        Self {
            shared: Arc::new(Shared {
                client,
                index,
                instance: instance.into(),
                proxies: Mutex::default(),
                writer: StatusWriter::new(MANAGER, PER_SECOND),
            }),
        }
    }

    /// What is known of those that are connected, by name, for people to look at.
    pub fn connected(&self) -> serde_json::Value {
        let proxies = self.shared.proxies();
        let connected = proxies.iter().filter(|(_, proxy)| proxy.is_connected());
        let shown = connected.map(|(key, proxy)| {
            let sidecar = proxy.status(&self.shared.instance).sidecar;
            (key.proxy_name(), serde_json::json!(sidecar))
        });
        serde_json::Value::Object(shown.collect())
    }

    /// A Dataplane has gone. When its proxy is connected it comes back, and its status has to be written again.
    pub fn lost(&self, key: &ObjectKey) {
        let connected = self.shared.proxies().get(key).is_some_and(Proxy::is_connected);
        if connected {
            self.shared.writer.push(key.clone(), Instant::now() + SOON);
        }
    }

    /// Writes until dropped.
    pub async fn run(self, metrics: Metrics) {
        let Shared { client, writer, .. } = &*self.shared;
        writer.run(client.clone(), &*self.shared, &metrics).await;
    }
}

impl StatusSink for Statuses {
    fn report(&self, proxy: &ProxyId, stream: u64, report: Report<'_>) {
        let now = Instant::now();
        let mut proxies = self.shared.proxies();
        let known = proxies.entry(proxy.key.clone()).or_default();
        let at = match known.on_report(stream, &report, Timestamp::now()) {
            Urgency::None => return,
            Urgency::Matters => now + SOON,
            Urgency::Gone => now + GONE,
            Urgency::Versions => known
                .written
                .map_or(now + SOON, |written| (written + RARELY).max(now + SOON)),
        };
        drop(proxies);
        self.shared.writer.push(proxy.key.clone(), at);
    }
}

impl Shared {
    fn proxies(&self) -> MutexGuard<'_, HashMap<ObjectKey, Proxy>> {
        self.proxies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The end of a connection is only told where no other replica has taken the proxy over.
    async fn last_word(&self, key: &ObjectKey) -> Option<WantedStatus> {
        let api: Api<Dataplane> = Api::namespaced(self.client.clone(), &key.namespace);
        let current = api.get_opt(&key.name).await.ok().flatten();
        let mine = current.filter(|current| {
            let sidecar = current.status.as_ref().and_then(|status| status.sidecar.as_ref());
            sidecar.is_some_and(|sidecar| sidecar.control_plane == *self.instance)
        });
        let mut proxies = self.proxies();
        // It may have come back while we asked.
        let proxy = proxies.get(key).filter(|proxy| !proxy.is_connected())?;
        let status = proxy.status(&self.instance);
        proxies.remove(key);
        Some(WantedStatus {
            status,
            version: mine?.metadata.resource_version,
        })
    }
}

impl StatusSource for Shared {
    fn wanted<'a>(&'a self, key: &'a ObjectKey) -> BoxFuture<'a, Option<WantedStatus>> {
        Box::pin(async move {
            {
                let mut proxies = self.proxies();
                let proxy = proxies.get(key)?;
                if proxy.is_connected() {
                    return Some(WantedStatus {
                        status: proxy.status(&self.instance),
                        version: None,
                    });
                }
                if self.index.read().desired(key).is_none() {
                    proxies.remove(key);
                    return None;
                }
            }
            self.last_word(key).await
        })
    }

    fn written(&self, key: &ObjectKey, outcome: WriteOutcome) {
        let now = Instant::now();
        if let Some(proxy) = self.proxies().get_mut(key) {
            proxy.written = Some(now);
            if outcome == WriteOutcome::Missing {
                // A sidecar may be faster than the leader that writes its Dataplane.
                self.writer.push(key.clone(), now + MISSING);
            }
        }
    }
}
