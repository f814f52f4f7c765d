//! TLS server with a certificate that can be replaced while serving. The caller passes in the application protocol,
//! such as HTTP, as a [`Protocol`].
//!
//! Every Pod can connect to the server. So that Pods cannot lock out the API server, a connection without a request is
//! closed after a time limit, and at a limit on connections a new connection takes the place of an idle connection
//! ([`connections`]).

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
/// Time that the server waits at shutdown for open connections to end.
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
    ) -> BoxFuture<'static, Result<(), ConnectionError>>;
}

/// Error that ended a connection.
pub type ConnectionError = Box<dyn std::error::Error + Send + Sync>;

/// Signals between a connection and its server.
#[derive(Clone, Debug)]
pub struct ConnectionSignals {
    request_received: Arc<Notify>,
    connection: ConnectionHandle,
    shutdown: Shutdown,
}

impl ConnectionSignals {
    /// Reports that the head of a request was received. The first report ends the time limit of the first request.
    pub fn request_received(&self) {
        self.request_received.notify_one();
    }

    /// Reports that a request was received completely. The request is in progress until the returned value is dropped.
    /// A connection without a request in progress is idle, and may be closed for a new connection.
    pub fn start_request(&self) -> ActiveRequest {
        self.connection.start_request()
    }

    /// Reports a request that is in progress until the connection ends.
    pub fn start_endless_request(&self) {
        self.connection.start_endless_request();
    }

    /// Returns the shutdown of the server. Once it starts, the connection accepts no more requests.
    pub fn shutdown(&self) -> Shutdown {
        self.shutdown.clone()
    }
}

/// Serves a protocol over TLS until shutdown. At most `limit` connections are open at once. The limit on the
/// connections from one address is a quarter of `limit`, but at least 16. At a limit, an idle connection is closed for
/// a new one. Connections that are still open 10 s after the shutdown has started are closed.
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
        max_connections,
        max_per_address: (max_connections / PER_ADDRESS_DIVISOR).max(MIN_PER_ADDRESS),
        first_request_timeout: FIRST_REQUEST_TIMEOUT,
        grace_period: GRACE_PERIOD,
    };
    serve_with_limits(limits, counters, listener, certificate, protocol, shutdown).await
}

/// Limits of a server.
#[derive(Clone, Copy, Debug)]
struct ServerLimits {
    /// Maximum number of open connections.
    max_connections: usize,
    /// Maximum number of open connections from one address.
    max_per_address: usize,
    /// Time limit from the handshake to the head of the first request.
    first_request_timeout: Duration,
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
    let permits = Arc::new(Semaphore::new(limits.max_connections));
    let connections = Connections::new(limits.max_connections, limits.max_per_address, counters);
    let protocol = Arc::new(protocol);
    // Every connection holds a sender. The channel closes when the last connection has ended.
    let (connection_sender, mut all_closed) = mpsc::channel::<()>(1);
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
        let connection_sender = connection_sender.clone();
        let signals = ConnectionSignals {
            request_received: Arc::default(),
            connection: accepted.connection.handle(),
            shutdown: shutdown.clone(),
        };
        tokio::spawn(async move {
            let _connection_sender = connection_sender;
            let Accepted {
                stream,
                connection,
                _permit,
            } = accepted;
            tokio::select! {
                () = connection.close_requested() => tracing::debug!("connection closed by the server"),
                () = serve_connection(stream, acceptor, protocol, signals, limits.first_request_timeout) => {}
            }
        });
    }
    drop((listener, connection_sender));
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
    first_request_timeout: Duration,
) {
    let handshake = Box::pin(acceptor.accept(stream));
    let tls = match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => return tracing::debug!(%error, "TLS handshake failed"),
        Err(_) => return tracing::debug!("TLS handshake timed out"),
    };
    let request_received = signals.request_received.clone();
    let serving = serve_with_first_request_timeout(
        request_received,
        first_request_timeout,
        protocol.serve(tls, signals),
    );
    if let Err(error) = serving.await {
        tracing::debug!(%error, "connection ended with an error");
    }
}

/// Serves a connection until its end. Drops the connection if no head of a request is received within the time limit.
async fn serve_with_first_request_timeout(
    request_received: Arc<Notify>,
    time_limit: Duration,
    mut connection: BoxFuture<'static, Result<(), ConnectionError>>,
) -> Result<(), ConnectionError> {
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
    connection: OpenConnection,
    _permit: OwnedSemaphorePermit,
}

/// Accepts the next connection. At a limit, requests that another connection is closed. At the limit on all
/// connections, waits until that connection is closed. Returns `None` if no connection can be closed, or after an
/// error.
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
            let connection = connections.try_open(peer.ip())?;
            let permit = permits.clone().acquire_owned().await.ok()?;
            if let Err(error) = tcp::set_socket_options(&stream) {
                tracing::warn!(%error, "socket options could not be set; a vanished peer may stay undetected");
            }
            Some(Accepted {
                stream,
                connection,
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
