//! The gRPC shell of delta ADS: authenticates a stream, then moves messages between it and its state machine.
//!
//! A stream is one machine and one subscription, and runs in the task of its HTTP/2 connection. What it may queue is
//! bounded: while the client does not read, it does not go on, and the store keeps nothing for it but two cursors.

mod call;
mod messages;
mod metrics;
mod status;
mod transport;

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use kermode_authentication::Authenticator;
use kermode_http2::AfterCall;
use kermode_limit::KeyedLimit;
use kermode_model::{MeshName, ObjectKey};
use kermode_removals::EndpointRemovals;
use tokio::sync::{Semaphore, watch};

use crate::store::Store;
use crate::stream::Limits;
use call::Call;
use messages::{Requests, Responses};
pub use metrics::Metrics;
pub use status::{Numbers, Progress, Report, StatusSink};
pub use transport::Transport;

/// Who a stream belongs to, by its own account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyId {
    /// The mesh.
    pub mesh: MeshName,
    /// The Dataplane.
    pub key: ObjectKey,
}

impl ProxyId {
    /// Reads Envoy's node id: `<mesh>.<name>.<namespace>`.
    pub fn from_node_id(id: &str) -> Option<Self> {
        let (mesh, name) = id.split_once('.')?;
        let key = ObjectKey::from_proxy_name(name)?;
        (!mesh.is_empty()).then(|| Self {
            mesh: mesh.into(),
            key,
        })
    }
}

/// Bounds of the server.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Bounds of each stream.
    pub limits: Limits,
    /// How long it may take to learn who opens a stream, and how long that one waits for its Dataplane.
    pub first_request: Duration,
    /// How many streams a proxy may have; one more ends the oldest.
    pub streams: usize,
    /// How many streams all proxies together may have here.
    pub total_streams: usize,
    /// How many streams may be getting their first configuration at once; others wait, before anything of them is read. That
    /// takes a hundred times the memory of a stream that has it, and a proxy is not served sooner for being one of more.
    pub starting: usize,
    /// How long a stream counts as one of those at most: a slow one is not to keep others waiting. Its first request has to
    /// come within that time.
    pub start: Duration,
    /// How long a stream waits for its turn: less than the 30 s after which `kuma-dp` gives up and tries again.
    pub turn: Duration,
    /// How long a proxy may take to read one response, before its stream is ended.
    pub reading: Duration,
    /// Over how long streams are ended at shutdown, so that not all proxies reconnect at once.
    pub handover: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            first_request: Duration::from_secs(10),
            streams: 4,
            total_streams: 20_000,
            starting: 64,
            start: Duration::from_secs(5),
            turn: Duration::from_secs(25),
            reading: Duration::from_mins(1),
            handover: Duration::from_secs(3),
        }
    }
}

/// The service; cheap to clone.
#[derive(Clone)]
pub struct AdsServer {
    shared: Arc<Shared>,
}

struct Shared {
    store: Arc<Store>,
    authenticator: Box<dyn Authenticator>,
    settings: Settings,
    metrics: Metrics,
    removals: EndpointRemovals,
    shutdown: watch::Receiver<bool>,
    status: OnceLock<Box<dyn StatusSink>>,
    /// Tells streams of one proxy apart.
    streams: AtomicU64,
    open: KeyedLimit<ObjectKey>,
    starting: Arc<Semaphore>,
}

// === impl AdsServer ===

impl AdsServer {
    /// Serves the store until `shutdown` turns true or its sender goes away. What streams confirm is reported to `removals`.
    pub fn new(
        store: Arc<Store>,
        authenticator: impl Authenticator,
        settings: Settings,
        metrics: Metrics,
        removals: EndpointRemovals,
        shutdown: watch::Receiver<bool>,
    ) -> Self {
        let authenticator = Box::new(authenticator);
        Self {
            shared: Arc::new(Shared {
                store,
                authenticator,
                settings,
                metrics,
                removals,
                shutdown,
                status: OnceLock::new(),
                streams: AtomicU64::default(),
                open: KeyedLimit::new(settings.streams, settings.total_streams),
                starting: Arc::new(Semaphore::new(settings.starting.max(1))),
            }),
        }
    }

    /// Has what becomes of streams reported, from now on and to the first sink that is given.
    pub fn report_to(&self, sink: impl StatusSink) {
        let _ = self.shared.status.set(Box::new(sink));
    }

    /// How many proxies have streams, those included that get nothing yet.
    pub fn proxies(&self) -> usize {
        self.shared.open.keys()
    }

    /// Ends the streams of so many proxies, whichever they are, and has them connect anew: by the Service, and so perhaps
    /// to another replica. How many there were.
    pub fn send_elsewhere(&self, proxies: usize) -> usize {
        self.shared.open.revoke_keys(proxies)
    }

    /// Serves a call to its end.
    async fn serve(self, request: http::Request<RecvStream>, mut respond: SendResponse<Bytes>) -> AfterCall {
        let (http::request::Parts { headers, .. }, requests) = request.into_parts();
        // An error means that the client has gone already.
        let Ok(responses) = Responses::begin(&mut respond) else {
            return AfterCall::KeepConnection;
        };
        let call = Call {
            shared: self.shared,
            requests: Requests::new(requests),
            responses,
        };
        call.serve(headers).await
    }
}

impl std::fmt::Debug for AdsServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AdsServer")
            .field("settings", &self.shared.settings)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
