//! TLS with a certificate that can be replaced while serving, and inside of it whatever is spoken there: [`Protocol`].
//!
//! Whoever reaches the port can open connections, so each has to bring a request soon, and no address gets all of
//! them: a pod that only connects must not keep the API server out.

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

/// A handshake that takes longer is a client that does not mean it.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Neither does one that then sends no complete head of a request.
const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// One address may have this part of all connections,
const SHARE: usize = 4;
/// but always as many as this: many proxies may be behind one node's address.
const SMALLEST_SHARE: usize = 16;
/// How long open connections may take to finish at shutdown.
const GRACE: Duration = Duration::from_secs(10);

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Certificate and key do not fit each other or cannot be used.
    #[error("serving certificate cannot be used: {0}")]
    Certificate(#[from] rustls::Error),
}

/// The certificate in use; replacing it affects new connections only.
#[derive(Debug)]
pub struct ServingCertificate {
    current: RwLock<Arc<CertifiedKey>>,
}

impl ServingCertificate {
    /// Starts with a chain (leaf first) and its key.
    ///
    /// # Errors
    /// When the two do not fit.
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
    /// When the two do not fit; the old ones stay in use then.
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

/// What is spoken inside of TLS.
pub trait Protocol: Send + Sync + 'static {
    /// Its names in the handshake (ALPN), the most wanted first.
    fn names(&self) -> Vec<Vec<u8>>;

    /// Serves a connection until its end.
    fn serve(
        &self,
        stream: TlsStream<TcpStream>,
        signs: Signs,
    ) -> BoxFuture<'static, Result<(), BrokenConnection>>;
}

/// Why a connection did not end as it should.
pub type BrokenConnection = Box<dyn std::error::Error + Send + Sync>;

/// What a connection and its server say to each other.
#[derive(Clone, Debug)]
pub struct Signs {
    asked: Arc<Notify>,
    shutdown: Shutdown,
}

impl Signs {
    /// To be called with each request: a connection without any is closed.
    pub fn asked(&self) {
        self.asked.notify_one();
    }

    /// When no more requests are to be accepted.
    pub fn shutdown(&self) -> Shutdown {
        self.shutdown.clone()
    }
}

/// Serves a protocol over TLS until shutdown. At most `max_connections` are open at once, a quarter of them from one
/// address; more wait to be accepted, and more from that address are closed.
///
/// # Errors
/// When TLS cannot be set up.
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

/// What clients may use.
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
    // Closed when the last connection has dropped its end.
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

/// Serves until the connection ends, or drops it when no request comes in time.
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
    // Alone: for the rest of its life nothing beside it is looked at whenever it is woken.
    connection.await
}

fn acceptor(certificate: Arc<ServingCertificate>, protocols: Vec<Vec<u8>>) -> Result<TlsAcceptor, TlsError> {
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Resolver(certificate)));
    config.alpn_protocols = protocols;
    // Clients stay connected for long, and when many come back at once, no cache would be large enough for all of them.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// A connection and what it uses up.
struct Accepted {
    stream: TcpStream,
    _permit: OwnedSemaphorePermit,
    _place: Place,
}

async fn next(listener: &TcpListener, permits: &Arc<Semaphore>, sources: &Sources) -> Option<Accepted> {
    let permit = permits.clone().acquire_owned().await.ok()?;
    // Twice as many at a turn as the runtime would have it: after each, thousands of handshakes may go first, and whoever
    // finds no room in the kernel's queue is not heard for up to minutes.
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
            // Typically out of file descriptors: give open connections time to end.
            tokio::time::sleep(Duration::from_millis(50)).await;
            None
        }
    }
}

#[cfg(test)]
mod tests;
