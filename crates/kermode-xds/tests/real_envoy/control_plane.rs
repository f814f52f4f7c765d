//! The ADS server under test, on loopback, and the status that it reports.

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
    running: Option<(watch::Sender<bool>, JoinHandle<()>)>,
}

/// Status that the server reported.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ReportedStatus {
    pub(crate) connected: usize,
    /// Number of resources that Envoy rejected and that have not changed since.
    pub(crate) invalid: usize,
    /// Names and error message of each rejected response.
    pub(crate) rejected: Vec<(Vec<String>, String)>,
    progress: Progress,
}

/// Authenticates every caller as the proxy under test.
struct AnyCaller;

/// Collects the status, with the numbers of the newest stream. Reads the numbers at each report, so that every change is
/// reported.
struct Sink(
    Arc<watch::Sender<ReportedStatus>>,
    Mutex<Arc<ConfigurationVersions>>,
);

fn proxy() -> ObjectKey {
    ObjectKey::new("shop", "web-0")
}

impl ReportedStatus {
    /// Returns whether every response was acknowledged.
    pub(crate) fn settled(&self) -> bool {
        self.connected == 1 && (self.invalid > 0 || self.progress.sent == self.progress.acknowledged)
    }
}

impl ControlPlane {
    pub(crate) async fn start() -> Self {
        let mut plane = Self {
            store: Arc::new(Store::default()),
            status: Arc::new(watch::Sender::new(ReportedStatus::default())),
            removals: EndpointRemovals::default(),
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            running: None,
        };
        plane.restart().await;
        plane
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts the server, at its earlier address if it had one.
    pub(crate) async fn restart(&mut self) {
        let listener = TcpListener::bind(self.address).await.expect("an address");
        self.address = listener.local_addr().expect("an address");
        let (shutdown, requested) = watch::channel(false);
        let settings = Settings {
            shutdown_period: Duration::ZERO,
            ..Settings::default()
        };
        let server = AdsServer::new(
            self.store.clone(),
            AnyCaller,
            settings,
            Metrics::default(),
            self.removals.clone(),
            requested.clone(),
        );
        server.report_to(Sink(self.status.clone(), Mutex::default()));
        let task = tokio::spawn(async move {
            let transport = Transport::new(server, Routes::default());
            let mut connections = JoinSet::new();
            loop {
                let stream = tokio::select! {
                    accepted = listener.accept() => accepted.expect("a connection").0,
                    () = shutdown_requested(requested.clone()) => break,
                };
                let closing = shutdown_requested(requested.clone());
                connections.spawn(transport.clone().serve(stream, || (), closing));
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
        self.until("the stream has ended", |status| status.connected == 0)
            .await;
    }

    /// Replaces the shared resources of one service.
    pub(crate) fn share(&self, service: &str, resources: Vec<Resource>) {
        self.store
            .replace_service(&"default".into(), &service.into(), resources);
    }

    /// Reports an endpoint to the endpoint removals.
    pub(crate) fn add_endpoint(&self, endpoint: &str) {
        self.removals
            .on_endpoint_added(ObjectKey::new("shop", endpoint), "default".into());
    }

    /// Reports the published removal of an endpoint. Returns when Envoy has acknowledged it.
    pub(crate) async fn remove_endpoint(&self, endpoint: &str) {
        let endpoint = ObjectKey::new("shop", endpoint);
        let published = |mesh: &_| self.store.mesh_sequence(mesh);
        self.removals.on_endpoint_removed(&endpoint, published);
        let (_sender, no_replicas) = watch::channel(Replicas::default());
        let reports = self.removals.watch(endpoint, Arc::new(|_| None), no_replicas);
        let mut statuses = Vec::new();
        let acknowledged = reports.map(|report| report.status).take_while(|status| {
            statuses.push(*status);
            std::future::ready(!matches!(status, RemovalStatus::Acknowledged { .. }))
        });
        tokio::time::timeout(TIMEOUT, acknowledged.for_each(|_| std::future::ready(())))
            .await
            .expect("an acknowledgement");
        assert_eq!(
            statuses[0],
            RemovalStatus::Pending { proxies: 1 },
            "no proxy had the endpoint: {statuses:?}"
        );
    }

    /// Replaces the own resources of the proxy.
    pub(crate) fn publish_proxy(&self, resources: Vec<Resource>) {
        let profile = Profile::new("default".into());
        self.store.replace_proxy(&proxy(), profile, resources);
    }

    pub(crate) fn status(&self) -> ReportedStatus {
        self.status.borrow().clone()
    }

    pub(crate) async fn until(&self, condition: &str, holds: impl Fn(&ReportedStatus) -> bool) {
        let mut status = self.status.subscribe();
        let waiting = tokio::time::timeout(TIMEOUT, status.wait_for(holds));
        assert!(
            waiting.await.is_ok(),
            "not reached: {condition}; {:?}",
            self.status()
        );
    }
}

async fn shutdown_requested(mut requested: watch::Receiver<bool>) {
    let _ = requested.wait_for(|requested| *requested).await;
}

impl Authenticator for AnyCaller {
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
        let mut configuration_versions = self.1.lock().expect("no panic");
        self.0.send_modify(|status| match report {
            Report::Connected(_, newest) => {
                *configuration_versions = newest;
                status.connected += 1;
                status.progress = Progress::default();
            }
            Report::Disconnected => status.connected -= 1,
            Report::Progress(progress) => {
                let _ = configuration_versions.read();
                status.invalid = progress.rejected_resources;
                status.progress = progress;
            }
            Report::Rejected {
                resources, message, ..
            } => {
                let names = resources.iter().map(|name| (*name).to_owned()).collect();
                status.rejected.push((names, message.to_owned()));
            }
        });
    }
}
