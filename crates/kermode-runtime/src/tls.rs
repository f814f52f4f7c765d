//! HTTPS for HTTP/1.1 and HTTP/2 with a certificate that can be replaced while serving.
//!
//! Whoever reaches the port can open connections, so each has to bring a request soon, and no address gets all of
//! them: a pod that only connects must not keep the API server out.

mod sources;

use std::future::Future;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use axum::Router;
use futures::future::BoxFuture;
use hyper::server::conn::{http1, http2};
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use nix::sys::socket::{setsockopt, sockopt};
use rustls::crypto::ring;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use self::sources::{Place, Sources};
use crate::shutdown::Shutdown;

/// A handshake that takes longer is a client that does not mean it.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Neither does one that then sends no complete head of a request.
const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// The API server keeps a connection for 90 s without using it, as Go's clients do. Closing earlier would now and then
/// cross one of its requests, which it does not send again: with that, a webhook that must answer refuses a Pod.
const NEXT_REQUEST_TIMEOUT: Duration = Duration::from_mins(2);
/// One address may have this part of all connections,
const SHARE: usize = 4;
/// but always as many as this: many proxies may be behind one node's address.
const SMALLEST_SHARE: usize = 16;
/// After so long without a word from a peer the kernel asks whether it is still there,
const QUIET: Duration = Duration::from_secs(20);
/// asks again in such steps,
const PROBE: Duration = Duration::from_secs(10);
/// and gives up when nothing has been answered for so long, be it a question or what was sent.
const UNANSWERED: Duration = Duration::from_secs(40);
/// How much of an answer waits in a stream for a client that does not read as fast, in bytes: two frames.
const SEND_BUFFER: usize = 32 * 1024;
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

/// Serves a router over TLS until shutdown. At most `max_connections` are open at once, a quarter of them from one
/// address; more wait to be accepted, and more from that address are closed.
///
/// # Errors
/// When TLS cannot be set up.
pub async fn serve(
    listener: TcpListener,
    certificate: Arc<ServingCertificate>,
    router: Router,
    max_connections: usize,
    shutdown: Shutdown,
) -> Result<(), TlsError> {
    let bounds = Bounds {
        connections: max_connections,
        per_source: (max_connections / SHARE).max(SMALLEST_SHARE),
        first_request: FIRST_REQUEST_TIMEOUT,
        next_request: NEXT_REQUEST_TIMEOUT,
    };
    serve_within(bounds, listener, certificate, router, shutdown).await
}

/// What clients may use.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    connections: usize,
    /// Connections from one address.
    per_source: usize,
    /// From the handshake to the head of the first request.
    first_request: Duration,
    /// From an answer to the head of the next request, with HTTP/1.1.
    next_request: Duration,
}

async fn serve_within(
    bounds: Bounds,
    listener: TcpListener,
    certificate: Arc<ServingCertificate>,
    router: Router,
    shutdown: Shutdown,
) -> Result<(), TlsError> {
    let acceptor = acceptor(certificate)?;
    let permits = Arc::new(Semaphore::new(bounds.connections));
    let sources = Sources::new(bounds.per_source);
    let graceful = GracefulShutdown::new();
    let finished = shutdown.wait();
    tokio::pin!(finished);
    loop {
        let accepted = tokio::select! {
            () = &mut finished => break,
            accepted = next(&listener, &permits, &sources) => accepted,
        };
        let Some(accepted) = accepted else { continue };
        let (acceptor, router, watcher) = (acceptor.clone(), router.clone(), graceful.watcher());
        tokio::spawn(async move {
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
            if let Err(error) = serve_connection(tls, router, watcher, bounds).await {
                tracing::debug!(%error, "connection ended");
            }
        });
    }
    drop(listener);
    if tokio::time::timeout(GRACE, graceful.shutdown()).await.is_err() {
        tracing::warn!("connections were still open at the end of the grace period");
    }
    Ok(())
}

/// Serves what the handshake agreed on. Nothing is guessed from what the client sends, since a client that sends
/// nothing would be waited for.
async fn serve_connection(
    tls: TlsStream<TcpStream>,
    router: Router,
    watcher: Watcher,
    bounds: Bounds,
) -> hyper::Result<()> {
    let is_h2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
    let asked = Arc::new(Notify::new());
    let service = {
        let (asked, router) = (asked.clone(), TowerToHyperService::new(router));
        service_fn(move |request| {
            asked.notify_one();
            router.call(request)
        })
    };
    let silence = silence(asked, bounds.first_request);
    let io = TokioIo::new(tls);
    // In a box: a connection takes kilobytes, and a task would have room for each place that it is moved through.
    let connection: BoxFuture<'static, hyper::Result<()>> = if is_h2 {
        Box::pin(watcher.watch(http2().serve_connection(io, service)))
    } else {
        Box::pin(watcher.watch(http1(bounds.next_request).serve_connection(io, service)))
    };
    unless(silence, connection).await
}

/// Serves until the connection ends, or drops it when the client stays silent.
async fn unless(
    silence: impl Future<Output = ()>,
    connection: impl Future<Output = hyper::Result<()>>,
) -> hyper::Result<()> {
    tokio::select! {
        ended = connection => ended,
        () = silence => {
            tracing::debug!("connection closed: no request came");
            Ok(())
        }
    }
}

/// Completes when no request has come in time, else never.
async fn silence(asked: Arc<Notify>, patience: Duration) {
    if tokio::time::timeout(patience, asked.notified()).await.is_ok() {
        std::future::pending::<()>().await;
    }
}

fn acceptor(certificate: Arc<ServingCertificate>) -> Result<TlsAcceptor, TlsError> {
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Resolver(certificate)));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn http1(header_read_timeout: Duration) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(header_read_timeout);
    builder
}

fn http2() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_send_buf_size(SEND_BUFFER)
        .max_concurrent_streams(1024);
    builder
}

/// A connection and what it uses up.
struct Accepted {
    stream: TcpStream,
    _permit: OwnedSemaphorePermit,
    _place: Place,
}

async fn next(listener: &TcpListener, permits: &Arc<Semaphore>, sources: &Sources) -> Option<Accepted> {
    let permit = permits.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, peer)) => {
            let place = sources.admit(peer.ip())?;
            if let Err(error) = tune(&stream) {
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

/// Small gRPC messages must not wait for one another. A peer that is gone without a word is found out by the kernel: asking
/// each by a ping of HTTP/2 would be most of what thousands of idle connections cost. One that only hangs is kept: it costs
/// what any other does, and `kuma-dp` asks us for its part.
fn tune(stream: &TcpStream) -> std::io::Result<()> {
    let seconds = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
    stream.set_nodelay(true)?;
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &seconds(QUIET))?;
    setsockopt(stream, sockopt::TcpKeepInterval, &seconds(PROBE))?;
    // Linux asks this and not the number of probes when it is set.
    setsockopt(stream, sockopt::TcpUserTimeout, &(seconds(UNANSWERED) * 1000))?;
    Ok(())
}

#[cfg(test)]
mod tests;
