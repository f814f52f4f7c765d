//! TLS server with a certificate that can be replaced while serving. The caller passes in the application protocol,
//! such as HTTP, as a [`Protocol`].
//!
//! Every Pod can open connections to the port. Connections without a request are therefore closed, and at the limits on
//! connections a new one takes the place of an idle one ([`connections`]), so that Pods that hold connections cannot lock
//! out the API server.

mod connections;
mod http;
mod metrics;

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::RwLock;
use rustls::crypto::ring;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

pub use self::connections::ActiveRequest;
use self::connections::{ConnectionHandle, Connections, OpenConnection};
use self::metrics::LimitCounters;
pub use self::metrics::{ConnectionLimit, ConnectionMetrics};
use crate::shutdown::Shutdown;
use crate::tcp;

/// Time limit of the TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time limit from the handshake to the complete head of the first request.
const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// The limit on the connections from one address is the limit on all connections divided by this number.
const PER_ADDRESS_DIVISOR: usize = 4;
/// Lower bound of the limit on the connections from one address, because many proxies may share the address of a node.
const MIN_PER_ADDRESS: usize = 16;
/// Pause after a connection could not be accepted. The usual cause is a lack of file descriptors, which are released
/// when other connections end.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);
/// Time that the server waits for open connections at shutdown.
const GRACE_PERIOD: Duration = Duration::from_secs(10);

/// Error of a TLS server that cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Certificate and key do not match, or are not supported.
    #[error("serving certificate cannot be used: {0}")]
    Certificate(#[from] rustls::Error),
}

/// Certificate of a server. Replacing it affects only new connections.
#[derive(Debug)]
pub struct ServingCertificate {
    current: RwLock<Arc<CertifiedKey>>,
}

impl ServingCertificate {
    /// Creates the certificate from a chain (leaf first) and its private key.
    ///
    /// # Errors
    /// If certificate and key do not match.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Arc<Self>, TlsError> {
        Ok(Arc::new(Self {
            current: RwLock::new(certified_key(chain, key)?),
        }))
    }

    /// Replaces chain and key.
    ///
    /// # Errors
    /// If certificate and key do not match. The previous chain and key stay in use.
    pub fn replace(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<(), TlsError> {
        let new = certified_key(chain, key)?;
        *self.current.write() = new;
        Ok(())
    }
}

fn certified_key(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<CertifiedKey>, TlsError> {
    Ok(Arc::new(CertifiedKey::from_der(
        chain,
        key,
        &ring::default_provider(),
    )?))
}

/// Gives rustls the current certificate for each handshake.
#[derive(Debug)]
struct CertificateResolver(Arc<ServingCertificate>);

impl ResolvesServerCert for CertificateResolver {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.current.read().clone())
    }
}

/// Application protocol that a server speaks over TLS, such as HTTP.
pub trait Protocol: Send + Sync + 'static {
    /// Returns the ALPN names, in the order of preference.
    fn alpn_names(&self) -> Vec<Vec<u8>>;

    /// Serves a connection until its end.
    fn serve(
        &self,
        stream: TlsStream<TcpStream>,
        signals: ConnectionSignals,
    ) -> BoxFuture<'static, Result<(), BrokenConnection>>;
}

/// Error that ended a connection.
pub type BrokenConnection = Box<dyn std::error::Error + Send + Sync>;

/// Signals between a connection and its server.
#[derive(Clone, Debug)]
pub struct ConnectionSignals {
    request_received: Arc<Notify>,
    connection: ConnectionHandle,
    shutdown: Shutdown,
}

impl ConnectionSignals {
    /// Records the head of a request. A connection without a request is closed.
    pub fn request_received(&self) {
        self.request_received.notify_one();
    }

    /// Records a complete request, which is in progress until the returned value is dropped. Without a request in
    /// progress, the connection is idle, and may be closed for a new one.
    pub fn start_request(&self) -> ActiveRequest {
        self.connection.start_request()
    }

    /// Records a request that lasts as long as the connection.
    pub fn start_endless_request(&self) {
        self.connection.mark_active();
    }

    /// Returns the shutdown of the server. Once it starts, the connection accepts no more requests.
    pub fn shutdown(&self) -> Shutdown {
        self.shutdown.clone()
    }
}

/// Serves a protocol over TLS until shutdown. At most the connections of `limit` are open at once, and at most a quarter
/// of this number (but at least 16) from one address. At a limit, an idle connection is closed for a new one. Connections
/// that are still open at the end of the grace period of the shutdown are closed.
///
/// # Errors
/// If TLS cannot be set up.
pub async fn serve(
    listener: TcpListener,
    certificate: Arc<ServingCertificate>,
    protocol: impl Protocol,
    limit: impl Into<ConnectionLimit>,
    shutdown: Shutdown,
) -> Result<(), TlsError> {
    let ConnectionLimit {
        max_connections,
        counters,
    } = limit.into();
    let limits = ServerLimits {
        connections: max_connections,
        per_address: (max_connections / PER_ADDRESS_DIVISOR).max(MIN_PER_ADDRESS),
        first_request: FIRST_REQUEST_TIMEOUT,
        grace_period: GRACE_PERIOD,
    };
    serve_with_limits(limits, counters, listener, certificate, protocol, shutdown).await
}

/// Limits of a server.
#[derive(Clone, Copy, Debug)]
struct ServerLimits {
    /// Number of open connections.
    connections: usize,
    /// Number of open connections from one address.
    per_address: usize,
    /// Time from the handshake to the head of the first request.
    first_request: Duration,
    /// Time for which open connections may finish their requests at shutdown.
    grace_period: Duration,
}

async fn serve_with_limits(
    limits: ServerLimits,
    counters: LimitCounters,
    listener: TcpListener,
    certificate: Arc<ServingCertificate>,
    protocol: impl Protocol,
    shutdown: Shutdown,
) -> Result<(), TlsError> {
    let acceptor = tls_acceptor(certificate, protocol.alpn_names())?;
    let permits = Arc::new(Semaphore::new(limits.connections));
    let connections = Connections::new(limits.connections, limits.per_address, counters);
    let protocol = Arc::new(protocol);
    // Every connection holds a sender. The channel closes when the last connection has ended.
    let (open_connection, mut all_closed) = mpsc::channel::<()>(1);
    let shutdown_started = shutdown.clone().wait();
    tokio::pin!(shutdown_started);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown_started => break,
            accepted = accept(&listener, &permits, &connections) => accepted,
        };
        let Some(accepted) = accepted else { continue };
        let acceptor = acceptor.clone();
        let protocol = protocol.clone();
        let open_connection = open_connection.clone();
        let signals = ConnectionSignals {
            request_received: Arc::default(),
            connection: accepted.open.handle(),
            shutdown: shutdown.clone(),
        };
        tokio::spawn(async move {
            let _open_connection = open_connection;
            let Accepted {
                stream,
                open,
                _permit,
            } = accepted;
            tokio::select! {
                () = open.closed() => tracing::debug!("connection closed by the server"),
                () = serve_connection(stream, acceptor, protocol, signals, limits.first_request) => {}
            }
        });
    }
    drop((listener, open_connection));
    if tokio::time::timeout(limits.grace_period, all_closed.recv())
        .await
        .is_err()
    {
        tracing::warn!("connections were still open at the end of the grace period: closing them");
        connections.close_all();
        all_closed.recv().await;
    }
    Ok(())
}

/// Serves a connection from its handshake until its end.
async fn serve_connection(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    protocol: Arc<impl Protocol>,
    signals: ConnectionSignals,
    first_request: Duration,
) {
    let handshake = Box::pin(acceptor.accept(stream));
    let tls = match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => return tracing::debug!(%error, "TLS handshake failed"),
        Err(_) => return tracing::debug!("TLS handshake timed out"),
    };
    let request_received = signals.request_received.clone();
    let serving =
        serve_with_first_request_timeout(request_received, first_request, protocol.serve(tls, signals));
    if let Err(error) = serving.await {
        tracing::debug!(%error, "connection ended with an error");
    }
}

/// Serves a connection until its end. A connection without a request is dropped at the time limit.
async fn serve_with_first_request_timeout(
    request_received: Arc<Notify>,
    time_limit: Duration,
    mut connection: BoxFuture<'static, Result<(), BrokenConnection>>,
) -> Result<(), BrokenConnection> {
    tokio::select! {
        ended = &mut connection => return ended,
        received = tokio::time::timeout(time_limit, request_received.notified()) => if received.is_err() {
            tracing::debug!("connection closed: no request was received in time");
            return Ok(());
        }
    }
    // Once a request has arrived, the connection is polled without the timer.
    connection.await
}

fn tls_acceptor(
    certificate: Arc<ServingCertificate>,
    protocols: Vec<Vec<u8>>,
) -> Result<TlsAcceptor, TlsError> {
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(CertificateResolver(certificate)));
    config.alpn_protocols = protocols;
    // Sessions are not cached: clients stay connected for long, and no cache holds all clients that reconnect at once.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// A connection with its permit.
struct Accepted {
    stream: TcpStream,
    open: OpenConnection,
    _permit: OwnedSemaphorePermit,
}

/// Accepts the next connection, and waits until a connection that has to be closed for it is closed. Returns `None` if no
/// connection can be closed for it, or after an error.
async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
    connections: &Connections,
) -> Option<Accepted> {
    // Tokio's cooperative budget would interrupt a series of accepts, and thousands of handshakes may run before the
    // task is polled again. Meanwhile the kernel's accept queue could fill up, and a client that finds it full retries
    // for up to minutes. Accepting is therefore exempt from the budget.
    match tokio::task::unconstrained(listener.accept()).await {
        Ok((stream, peer)) => {
            let open = connections.try_open(peer.ip())?;
            let permit = permits.clone().acquire_owned().await.ok()?;
            if let Err(error) = tcp::set_socket_options(&stream) {
                tracing::warn!(%error, "socket options could not be set; a vanished peer may stay undetected");
            }
            Some(Accepted {
                stream,
                open,
                _permit: permit,
            })
        }
        Err(error) => {
            tracing::warn!(%error, "connection could not be accepted");
            tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
            None
        }
    }
}

#[cfg(test)]
mod tests;
