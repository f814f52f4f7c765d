//! gRPC server of delta ADS: authenticates a stream, then passes messages between its transport and its state machine.
//!
//! A stream consists of a state machine ([`crate::stream`]) and a watcher of the store, and runs in the task of its
//! HTTP/2 connection. The memory of a stream is bounded: the stream sends nothing while the client does not read, and
//! holds two cursors into the store's logs of changes instead of a queue of changes.

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
pub use status::{ConfigurationVersions, Progress, Report, StatusSink};
pub use transport::Transport;

/// Mesh and Dataplane of a proxy, as its node id claims them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyId {
    /// Mesh of the proxy.
    pub mesh: MeshName,
    /// Namespace and name of the Dataplane.
    pub key: ObjectKey,
}

impl ProxyId {
    /// Parses Envoy's node id: `<mesh>.<name>.<namespace>`.
    pub fn from_node_id(id: &str) -> Option<Self> {
        let (mesh, name) = id.split_once('.')?;
        let key = ObjectKey::from_proxy_name(name)?;
        (!mesh.is_empty()).then(|| Self {
            mesh: mesh.into(),
            key,
        })
    }
}

/// Limits and timeouts of the server.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Limits of each stream.
    pub limits: Limits,
    /// Time limit for authenticating the caller of a stream, and time limit of the following wait for the caller's
    /// Dataplane.
    pub authentication_timeout: Duration,
    /// Maximum number of streams of one proxy. A further stream supersedes the oldest.
    pub streams_per_proxy: usize,
    /// Maximum number of streams of all proxies at this replica.
    pub total_streams: usize,
    /// Maximum number of streams that start at the same time. The start of a stream is the time from its start permit
    /// until the proxy has its first configuration. Further streams wait, and the server does not read their messages
    /// meanwhile. A starting stream takes a hundred times the memory of an idle stream. A higher number does not reduce
    /// the time until all streams have started.
    pub concurrent_starts: usize,
    /// Time limit for the first request of a stream that has a start permit. A start that takes longer than this stops
    /// counting towards [`Self::concurrent_starts`], so that a slow proxy does not delay others.
    pub start_timeout: Duration,
    /// Maximum time that a stream waits for its start permit. Less than the 30 s after which `kuma-dp` reconnects.
    pub start_queue_timeout: Duration,
    /// Time within which a proxy has to read one response. The server ends the stream of a slower proxy.
    pub read_timeout: Duration,
    /// Period over which the ends of streams are spread at shutdown, so that proxies do not reconnect all at once.
    pub shutdown_period: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            authentication_timeout: Duration::from_secs(10),
            streams_per_proxy: 4,
            total_streams: 20_000,
            concurrent_starts: 64,
            start_timeout: Duration::from_secs(5),
            start_queue_timeout: Duration::from_secs(25),
            read_timeout: Duration::from_mins(1),
            shutdown_period: Duration::from_secs(3),
        }
    }
}

/// Server of delta ADS. Cheap to clone; clones share their state.
#[derive(Clone)]
pub struct AdsServer {
    state: Arc<AdsServerState>,
}

struct AdsServerState {
    store: Arc<Store>,
    authenticator: Box<dyn Authenticator>,
    settings: Settings,
    metrics: Metrics,
    removals: EndpointRemovals,
    shutdown: watch::Receiver<bool>,
    status_sink: OnceLock<Box<dyn StatusSink>>,
    /// Number of the next stream, which identifies the stream to [`StatusSink`].
    next_stream: AtomicU64,
    open_streams: KeyedLimit<ObjectKey>,
    /// Start permits, see [`Settings::concurrent_starts`].
    start_permits: Arc<Semaphore>,
}

// === impl AdsServer ===

impl AdsServer {
    /// Creates a server of the store's resources. Streams end after `shutdown` becomes true or its sender is dropped.
    /// The server reports to `removals` which endpoint changes each stream has acknowledged.
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
            state: Arc::new(AdsServerState {
                store,
                authenticator,
                settings,
                metrics,
                removals,
                shutdown,
                status_sink: OnceLock::new(),
                next_stream: AtomicU64::default(),
                open_streams: KeyedLimit::new(settings.streams_per_proxy, settings.total_streams),
                start_permits: Arc::new(Semaphore::new(settings.concurrent_starts.max(1))),
            }),
        }
    }

    /// Sets the sink to which streams report their status. Only the first call has an effect.
    pub fn report_to(&self, sink: impl StatusSink) {
        let _ = self.state.status_sink.set(Box::new(sink));
    }

    /// Returns the number of proxies with streams, including streams that wait for a start permit.
    pub fn proxy_count(&self) -> usize {
        self.state.open_streams.key_count()
    }

    /// Ends the streams and connections of up to `count` proxies, chosen at random. The proxies reconnect through the
    /// Service, which may lead to another replica. Returns the number of evicted proxies.
    pub fn evict_proxies(&self, count: usize) -> usize {
        self.state.open_streams.evict_keys(count)
    }

    /// Serves a call until it ends.
    async fn serve(self, request: http::Request<RecvStream>, mut respond: SendResponse<Bytes>) -> AfterCall {
        let (http::request::Parts { headers, .. }, requests) = request.into_parts();
        // An error means that the client has reset the call.
        let Ok(responses) = Responses::begin(&mut respond) else {
            return AfterCall::KeepConnection;
        };
        let call = Call {
            state: self.state,
            requests: Requests::new(requests),
            responses,
        };
        call.serve(headers).await
    }
}

impl std::fmt::Debug for AdsServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AdsServer")
            .field("settings", &self.state.settings)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
