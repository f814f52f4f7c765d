//! TLS server with a certificate that can be replaced while serving. [`Protocol`] is the protocol inside of TLS.
//!
//! Every Pod can open connections to the port. So a connection without a request is closed, and the connections from one
//! address are limited: a Pod that only connects must not lock out the API server.

mod http;
mod sources;

use std::sync::{Arc, RwLock};
use std::time::Duration;

use futures::future::BoxFuture;
use rustls::crypto::ring;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use self::sources::{Place, Sources};
use crate::shutdown::Shutdown;
use crate::tcp;

/// Time limit of the TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time limit from the handshake to the complete head of the first request.
const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Share of all connections that one address may have, as a divisor.
const SHARE: usize = 4;
/// Lower bound of the connections that one address may have: many proxies may share the address of a node.
const SMALLEST_SHARE: usize = 16;
/// Time limit of open connections at shutdown.
const GRACE: Duration = Duration::from_secs(10);

/// A TLS server that cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Certificate and key do not fit each other or cannot be used.
    #[error("serving certificate cannot be used: {0}")]
    Certificate(#[from] rustls::Error),
}

/// Certificate in use. Replacing it affects only new connections.
#[derive(Debug)]
pub struct ServingCertificate {
    current: RwLock<Arc<CertifiedKey>>,
}

impl ServingCertificate {
    /// Creates it from a chain (leaf first) and its key.
    ///
    /// # Errors
    /// If certificate and key do not match.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Arc<Self>, TlsError> {
        Ok(Arc::new(Self {
            current: RwLock::new(certified(chain, key)?),
        }))
    }

    /// Replaces chain and key.
    ///
    /// # Errors
    /// If certificate and key do not match. The previous ones stay in use.
    pub fn replace(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<(), TlsError> {
        let new = certified(chain, key)?;
        *self
            .current
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = new;
        Ok(())
    }
}

fn certified(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<CertifiedKey>, TlsError> {
    Ok(Arc::new(CertifiedKey::from_der(
        chain,
        key,
        &ring::default_provider(),
    )?))
}

#[derive(Debug)]
struct Resolver(Arc<ServingCertificate>);

impl ResolvesServerCert for Resolver {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let current = self
            .0
            .current
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        Some(current.clone())
    }
}

/// Protocol inside of TLS.
pub trait Protocol: Send + Sync + 'static {
    /// ALPN names, in the order of preference.
    fn names(&self) -> Vec<Vec<u8>>;

    /// Serves a connection until its end.
    fn serve(
        &self,
        stream: TlsStream<TcpStream>,
        signs: Signs,
    ) -> BoxFuture<'static, Result<(), BrokenConnection>>;
}

/// Error that ended a connection.
pub type BrokenConnection = Box<dyn std::error::Error + Send + Sync>;

/// Signals between a connection and its server.
#[derive(Clone, Debug)]
pub struct Signs {
    asked: Arc<Notify>,
    shutdown: Shutdown,
}

impl Signs {
    /// Records a request. A connection without a request is closed.
    pub fn asked(&self) {
        self.asked.notify_one();
    }

    /// Completes when no more requests are accepted.
    pub fn shutdown(&self) -> Shutdown {
        self.shutdown.clone()
    }
}

/// Serves a protocol over TLS until shutdown. At most `max_connections` are open at once, and a quarter of them from one
/// address. Further connections wait to be accepted; further connections from that address are closed.
///
/// # Errors
/// If TLS cannot be set up.
pub async fn serve(
    listener: TcpListener,
    certificate: Arc<ServingCertificate>,
    protocol: impl Protocol,
    max_connections: usize,
    shutdown: Shutdown,
) -> Result<(), TlsError> {
    let bounds = Bounds {
        connections: max_connections,
        per_source: (max_connections / SHARE).max(SMALLEST_SHARE),
        first_request: FIRST_REQUEST_TIMEOUT,
    };
    serve_within(bounds, listener, certificate, protocol, shutdown).await
}

/// Limits of clients.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    connections: usize,
    /// Connections from one address.
    per_source: usize,
    /// From the handshake to the head of the first request.
    first_request: Duration,
}

async fn serve_within(
    bounds: Bounds,
    listener: TcpListener,
    certificate: Arc<ServingCertificate>,
    protocol: impl Protocol,
    shutdown: Shutdown,
) -> Result<(), TlsError> {
    let acceptor = acceptor(certificate, protocol.names())?;
    let permits = Arc::new(Semaphore::new(bounds.connections));
    let sources = Sources::new(bounds.per_source);
    let protocol = Arc::new(protocol);
    // The channel closes when the last connection has dropped its sender.
    let (open, mut closed) = mpsc::channel::<()>(1);
    let finished = shutdown.clone().wait();
    tokio::pin!(finished);
    loop {
        let accepted = tokio::select! {
            () = &mut finished => break,
            accepted = next(&listener, &permits, &sources) => accepted,
        };
        let Some(accepted) = accepted else { continue };
        let (acceptor, protocol, open) = (acceptor.clone(), protocol.clone(), open.clone());
        let signs = Signs {
            asked: Arc::default(),
            shutdown: shutdown.clone(),
        };
        tokio::spawn(async move {
            let _open = open;
            let Accepted {
                stream,
                _permit,
                _place,
            } = accepted;
            let handshake = Box::pin(acceptor.accept(stream));
            let tls = match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
                Ok(Ok(tls)) => tls,
                Ok(Err(error)) => return tracing::debug!(%error, "TLS handshake failed"),
                Err(_) => return tracing::debug!("TLS handshake timed out"),
            };
            let asked = signs.asked.clone();
            let serving = unless_silent(asked, bounds.first_request, protocol.serve(tls, signs));
            if let Err(error) = serving.await {
                tracing::debug!(%error, "connection ended");
            }
        });
    }
    drop((listener, open));
    if tokio::time::timeout(GRACE, closed.recv()).await.is_err() {
        tracing::warn!("connections were still open at the end of the grace period");
    }
    Ok(())
}

/// Serves a connection until its end. A connection without a request is dropped at the time limit.
async fn unless_silent(
    asked: Arc<Notify>,
    patience: Duration,
    mut connection: BoxFuture<'static, Result<(), BrokenConnection>>,
) -> Result<(), BrokenConnection> {
    tokio::select! {
        ended = &mut connection => return ended,
        asked = tokio::time::timeout(patience, asked.notified()) => if asked.is_err() {
            tracing::debug!("connection closed: no request came");
            return Ok(());
        }
    }
    // Once a request has arrived, the connection is polled without the timer.
    connection.await
}

fn acceptor(certificate: Arc<ServingCertificate>, protocols: Vec<Vec<u8>>) -> Result<TlsAcceptor, TlsError> {
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Resolver(certificate)));
    config.alpn_protocols = protocols;
    // Sessions are not cached: clients stay connected for long, and no cache holds all clients that reconnect at once.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// A connection with its slots.
struct Accepted {
    stream: TcpStream,
    _permit: OwnedSemaphorePermit,
    _place: Place,
}

async fn next(listener: &TcpListener, permits: &Arc<Semaphore>, sources: &Sources) -> Option<Accepted> {
    let permit = permits.clone().acquire_owned().await.ok()?;
    // Accepts twice as many connections in a row as the runtime's budget allows. Thousands of handshakes may run before the
    // next turn, and a client that finds the kernel's accept queue full retries for up to minutes.
    match tokio::task::unconstrained(listener.accept()).await {
        Ok((stream, peer)) => {
            let place = sources.admit(peer.ip())?;
            if let Err(error) = tcp::tune(&stream) {
                tracing::warn!(%error, "a peer that goes without a word may not be noticed");
            }
            Some(Accepted {
                stream,
                _permit: permit,
                _place: place,
            })
        }
        Err(error) => {
            tracing::warn!(%error, "connection could not be accepted");
            // Usually a lack of file descriptors: wait for open connections to end.
            tokio::time::sleep(Duration::from_millis(50)).await;
            None
        }
    }
}

#[cfg(test)]
mod tests;
