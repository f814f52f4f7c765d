//! The server under test, on loopback, and what it reports.

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
    AdsServer, Metrics, Numbers, Progress, ProxyId, Report, Settings, StatusSink, Transport,
};
use kermode_xds::store::{Profile, Store};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tonic::Status;
use tonic::service::Routes;

/// How long anything may take on a busy machine before a test gives up.
const PATIENCE: Duration = Duration::from_mins(1);

pub(crate) struct ControlPlane {
    store: Arc<Store>,
    seen: Arc<watch::Sender<Seen>>,
    removals: EndpointRemovals,
    address: SocketAddr,
    running: Option<(watch::Sender<bool>, JoinHandle<()>)>,
}

/// What the server reported.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Seen {
    pub(crate) connected: usize,
    pub(crate) refused: usize,
    /// Names and message of each refusal.
    pub(crate) rejected: Vec<(Vec<String>, String)>,
    progress: Progress,
}

struct Anyone;

/// With the numbers of the newest stream: they are read at once, so that each change of them is told.
struct Sink(Arc<watch::Sender<Seen>>, Mutex<Arc<Numbers>>);

fn proxy() -> ObjectKey {
    ObjectKey::new("shop", "web-0")
}

impl Seen {
    /// Whether everything that was sent was answered.
    pub(crate) fn settled(&self) -> bool {
        self.connected == 1 && (self.refused > 0 || self.progress.sent == self.progress.acknowledged)
    }
}

impl ControlPlane {
    pub(crate) async fn start() -> Self {
        let mut plane = Self {
            store: Arc::new(Store::default()),
            seen: Arc::new(watch::Sender::new(Seen::default())),
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

    /// Serves, at the same address as before.
    pub(crate) async fn restart(&mut self) {
        let listener = TcpListener::bind(self.address).await.expect("an address");
        self.address = listener.local_addr().expect("an address");
        let (shutdown, requested) = watch::channel(false);
        let settings = Settings {
            handover: Duration::ZERO,
            ..Settings::default()
        };
        let server = AdsServer::new(
            self.store.clone(),
            Anyone,
            settings,
            Metrics::default(),
            self.removals.clone(),
            requested.clone(),
        );
        server.report_to(Sink(self.seen.clone(), Mutex::default()));
        let task = tokio::spawn(async move {
            let transport = Transport::new(server, Routes::default());
            let mut connections = JoinSet::new();
            loop {
                let stream = tokio::select! {
                    accepted = listener.accept() => accepted.expect("a connection").0,
                    () = requested_of(requested.clone()) => break,
                };
                let closing = requested_of(requested.clone());
                connections.spawn(transport.clone().serve(stream, || (), closing));
            }
            drop(listener);
            while connections.join_next().await.is_some() {}
        });
        self.running = Some((shutdown, task));
    }

    pub(crate) async fn stop(&mut self) {
        let (shutdown, task) = self.running.take().expect("it is running");
        shutdown.send_replace(true);
        task.await.expect("it ends");
        self.until("the stream has ended", |seen| seen.connected == 0)
            .await;
    }

    /// Replaces what the mesh shares of one service.
    pub(crate) fn share(&self, service: &str, resources: Vec<Resource>) {
        self.store
            .replace_service(&"default".into(), &service.into(), resources);
    }

    /// Says that an endpoint may be sent requests.
    pub(crate) fn arrive(&self, endpoint: &str) {
        self.removals
            .endpoint_added(ObjectKey::new("shop", endpoint), "default".into());
    }

    /// Says that its removal was shared; completes when Envoy has confirmed that.
    pub(crate) async fn depart(&self, endpoint: &str) {
        let endpoint = ObjectKey::new("shop", endpoint);
        let published = |mesh: &_| self.store.mesh_sequence(mesh);
        self.removals.endpoint_removed(&endpoint, published);
        let (_sender, alone) = watch::channel(Replicas::default());
        let watching = self.removals.watch(endpoint, Arc::new(|_| None), alone);
        // Until it is told that nobody has it any more.
        let mut told = Vec::new();
        let confirmed = watching.map(|report| report.status).take_while(|status| {
            told.push(*status);
            std::future::ready(!matches!(status, RemovalStatus::Acknowledged { .. }))
        });
        tokio::time::timeout(PATIENCE, confirmed.for_each(|_| std::future::ready(())))
            .await
            .expect("an acknowledgement");
        assert_eq!(
            told[0],
            RemovalStatus::Pending { proxies: 1 },
            "it was not known to anybody: {told:?}"
        );
    }

    /// Replaces what belongs to the proxy alone.
    pub(crate) fn publish_proxy(&self, resources: Vec<Resource>) {
        let profile = Profile::new("default".into());
        self.store.replace_proxy(&proxy(), profile, resources);
    }

    pub(crate) fn seen(&self) -> Seen {
        self.seen.borrow().clone()
    }

    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&Seen) -> bool) {
        let mut seen = self.seen.subscribe();
        let waiting = tokio::time::timeout(PATIENCE, seen.wait_for(holds));
        assert!(waiting.await.is_ok(), "not seen: {what}; {:?}", self.seen());
    }
}

async fn requested_of(mut requested: watch::Receiver<bool>) {
    let _ = requested.wait_for(|requested| *requested).await;
}

impl Authenticator for Anyone {
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
        let mut numbers = self.1.lock().expect("nobody panics");
        self.0.send_modify(|seen| match report {
            Report::Connected(_, newest) => {
                *numbers = newest;
                seen.connected += 1;
                seen.progress = Progress::default();
            }
            Report::Disconnected => seen.connected -= 1,
            Report::Progress(progress) => {
                let _ = numbers.read();
                seen.refused = progress.refused;
                seen.progress = progress;
            }
            Report::Rejected {
                resources, message, ..
            } => {
                let names = resources.iter().map(|name| (*name).to_owned()).collect();
                seen.rejected.push((names, message.to_owned()));
            }
        });
    }
}
