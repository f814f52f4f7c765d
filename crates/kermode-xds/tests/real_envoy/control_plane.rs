//! Control plane of the tests: the ADS server on loopback, and the status that the server reports.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _};
use kermode_authentication::{Authenticator, ProxyIdentity};
use kermode_envoy::Resource;
use kermode_model::ObjectKey;
use kermode_removals::{EndpointRemovals, RemovalStatus, Replicas};
use kermode_xds::server::{
    AdsServer, ConfigurationVersions, Metrics, Progress, ProxyId, Report, Settings, StatusSink, Transport,
};
use kermode_xds::store::{Profile, Store};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tonic::Status;
use tonic::service::Routes;

/// Time after which a wait fails the test. Long enough for a busy machine.
const TIMEOUT: Duration = Duration::from_mins(1);

pub(crate) struct ControlPlane {
    store: Arc<Store>,
    status: Arc<watch::Sender<ReportedStatus>>,
    removals: EndpointRemovals,
    address: SocketAddr,
    /// Shutdown signal and task of the server, while it runs.
    running: Option<(watch::Sender<bool>, JoinHandle<()>)>,
}

/// Status that the server reported.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ReportedStatus {
    /// Number of open streams.
    pub(crate) open_streams: usize,
    /// Number of resources whose current version Envoy has rejected.
    pub(crate) rejected_resources: usize,
    /// Resource names and error message of each rejected response.
    pub(crate) rejections: Vec<(Vec<String>, String)>,
    progress: Progress,
}

/// Authenticates every caller as the proxy under test.
struct AcceptAll;

/// Collects the reported status. After the server has reported a change of versions, it reports the next change only if
/// the versions were read in between. The sink therefore reads the versions of the newest stream at each report of
/// progress.
struct Sink {
    status: Arc<watch::Sender<ReportedStatus>>,
    versions_of_newest_stream: Mutex<Arc<ConfigurationVersions>>,
}

fn proxy() -> ObjectKey {
    ObjectKey::new("shop", "web-0")
}

impl ReportedStatus {
    /// Returns whether Envoy has one stream and has acknowledged the newest version that was sent. While Envoy rejects
    /// a resource, returns true without the acknowledgement, because the server then does not update the acknowledged
    /// version.
    pub(crate) fn is_settled(&self) -> bool {
        let is_acknowledged = self.progress.sent == self.progress.acknowledged;
        self.open_streams == 1 && (self.rejected_resources > 0 || is_acknowledged)
    }
}

impl ControlPlane {
    pub(crate) async fn start() -> Self {
        let mut control_plane = Self {
            store: Arc::new(Store::default()),
            status: Arc::new(watch::Sender::new(ReportedStatus::default())),
            removals: EndpointRemovals::default(),
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            running: None,
        };
        control_plane.restart().await;
        control_plane
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts the server. After a stop, the server gets its earlier address.
    pub(crate) async fn restart(&mut self) {
        let listener = TcpListener::bind(self.address).await.expect("an address");
        self.address = listener.local_addr().expect("an address");
        let (shutdown, shutdown_receiver) = watch::channel(false);
        let settings = Settings {
            shutdown_period: Duration::ZERO,
            ..Settings::default()
        };
        let server = AdsServer::new(
            self.store.clone(),
            AcceptAll,
            settings,
            Metrics::default(),
            self.removals.clone(),
            shutdown_receiver.clone(),
        );
        server.report_to(Sink {
            status: self.status.clone(),
            versions_of_newest_stream: Mutex::default(),
        });
        let task = tokio::spawn(async move {
            let transport = Transport::new(server, Routes::default());
            let mut connections = JoinSet::new();
            loop {
                let stream = tokio::select! {
                    accepted = listener.accept() => accepted.expect("a connection").0,
                    () = wait_for_shutdown(shutdown_receiver.clone()) => break,
                };
                let shutdown = wait_for_shutdown(shutdown_receiver.clone());
                connections.spawn(transport.clone().serve(stream, || (), shutdown));
            }
            drop(listener);
            while connections.join_next().await.is_some() {}
        });
        self.running = Some((shutdown, task));
    }

    pub(crate) async fn stop(&mut self) {
        let (shutdown, task) = self.running.take().expect("a running server");
        shutdown.send_replace(true);
        task.await.expect("the server ends");
        self.wait_until("the stream has ended", |status| status.open_streams == 0)
            .await;
    }

    /// Publishes the shared resources of one service, in place of its earlier resources.
    pub(crate) fn publish_service(&self, service: &str, resources: Vec<Resource>) {
        self.store
            .replace_service(&"default".into(), &service.into(), resources);
    }

    /// Registers an endpoint, so that its removal can be tracked.
    pub(crate) fn add_endpoint(&self, endpoint: &str) {
        self.removals
            .on_endpoint_added(ObjectKey::new("shop", endpoint), "default".into());
    }

    /// Starts to track a published removal of an endpoint, and waits until Envoy has acknowledged the removal.
    pub(crate) async fn wait_for_endpoint_removal(&self, endpoint: &str) {
        let endpoint = ObjectKey::new("shop", endpoint);
        let published_sequence = |mesh: &_| self.store.mesh_sequence(mesh);
        self.removals.on_endpoint_removed(&endpoint, published_sequence);
        let (_sender, no_replicas) = watch::channel(Replicas::default());
        let reports = self.removals.watch(endpoint, Arc::new(|_| None), no_replicas);
        let mut statuses = Vec::new();
        let pending = reports.map(|report| report.status).take_while(|status| {
            statuses.push(*status);
            std::future::ready(!matches!(status, RemovalStatus::Acknowledged { .. }))
        });
        tokio::time::timeout(TIMEOUT, pending.for_each(|_| std::future::ready(())))
            .await
            .expect("an acknowledgement");
        assert_eq!(
            statuses[0],
            RemovalStatus::Pending { proxies: 1 },
            "the removal must wait for Envoy at first: {statuses:?}"
        );
    }

    /// Publishes the own resources of the proxy, in place of its earlier resources.
    pub(crate) fn publish_proxy(&self, resources: Vec<Resource>) {
        let profile = Profile::new("default".into());
        self.store.replace_proxy(&proxy(), profile, resources);
    }

    pub(crate) fn status(&self) -> ReportedStatus {
        self.status.borrow().clone()
    }

    /// Waits until the reported status satisfies `is_reached`, which `condition` describes.
    pub(crate) async fn wait_until(&self, condition: &str, is_reached: impl Fn(&ReportedStatus) -> bool) {
        let mut status = self.status.subscribe();
        let waiting = tokio::time::timeout(TIMEOUT, status.wait_for(is_reached));
        assert!(
            waiting.await.is_ok(),
            "not reached: {condition}; the status is {:?}",
            self.status()
        );
    }
}

async fn wait_for_shutdown(mut shutdown: watch::Receiver<bool>) {
    let _ = shutdown.wait_for(|requested| *requested).await;
}

impl Authenticator for AcceptAll {
    fn authenticate<'a>(&'a self, _: &'a http::HeaderMap) -> BoxFuture<'a, Result<ProxyIdentity, Status>> {
        let identity = ProxyIdentity {
            key: proxy(),
            service_account: "web".into(),
            uid: "1".into(),
        };
        async { Ok(identity) }.boxed()
    }

    fn authorize(&self, _: &ProxyIdentity) -> Result<(), Status> {
        Ok(())
    }
}

impl StatusSink for Sink {
    fn report(&self, _: &ProxyId, _: u64, report: Report<'_>) {
        let mut versions_of_newest_stream = self.versions_of_newest_stream.lock().expect("no panic");
        self.status.send_modify(|status| match report {
            Report::Connected(_, versions) => {
                *versions_of_newest_stream = versions;
                status.open_streams += 1;
                status.progress = Progress::default();
            }
            Report::Disconnected => status.open_streams -= 1,
            Report::Progress(progress) => {
                let _ = versions_of_newest_stream.read();
                status.rejected_resources = progress.rejected_resources;
                status.progress = progress;
            }
            Report::Rejected {
                resources, message, ..
            } => {
                let names = resources.iter().map(|name| (*name).to_owned()).collect();
                status.rejections.push((names, message.to_owned()));
            }
        });
    }
}
