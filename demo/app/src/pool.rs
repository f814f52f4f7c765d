//! Connections of the HTTP client: a new one for each request, or a set of connections that are reused.
//!
//! A request that its connection has not sent, because the other end closed the connection at that moment, is sent on
//! another connection, as HTTP clients do. A request that was sent is never repeated.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::request::Url;
use crate::target::Connector;
use crate::tls;

/// Maximum number of connections on which a request that was not sent is tried.
const MAX_ATTEMPTS: usize = 5;

/// Body of a request.
type Body = Full<Bytes>;
type Http2Connection = http2::SendRequest<Body>;

/// Open connection for HTTP/1.1.
pub(crate) struct Http1Connection {
    sender: http1::SendRequest<Body>,
    /// The number of references to this value is the number of open connections.
    _open: Arc<()>,
}

/// Connections, all to the same target.
pub(crate) enum Pool {
    /// Each request opens a connection.
    Unpooled,
    /// Connections for HTTP/1.1. A request uses the connection that has been idle for the longest time.
    Http1 {
        idle: Mutex<VecDeque<Http1Connection>>,
        open: Arc<()>,
        /// Requests open connections until this number exists. More exist if all connections are in use.
        minimum: usize,
    },
    /// Connections for HTTP/2, used in turn. An empty place gets a connection by the next request.
    Http2 {
        places: Vec<tokio::sync::Mutex<Option<Http2Connection>>>,
        next: AtomicUsize,
    },
}

/// Result of an attempt to send a request.
enum Attempt {
    Answered(Response<Incoming>, Option<Http1Connection>),
    /// The connection was closed before the request was sent.
    NotSent(Request<Body>),
}

/// Response whose body is still to be read.
pub(crate) struct Answer {
    pub(crate) response: Response<Incoming>,
    /// Connection to give back once the body is read.
    pub(crate) connection: Option<Http1Connection>,
}

impl Pool {
    /// Returns a pool for HTTP/1.1 that keeps connections open.
    pub(crate) fn http1(minimum: usize) -> Self {
        Self::Http1 {
            idle: Mutex::default(),
            open: Arc::default(),
            minimum,
        }
    }

    /// Returns a pool of this number of connections for HTTP/2.
    pub(crate) fn http2(connections: usize) -> Self {
        Self::Http2 {
            places: (0..connections.max(1))
                .map(|_| tokio::sync::Mutex::default())
                .collect(),
            next: AtomicUsize::new(0),
        }
    }

    /// Sends a request and returns the response. The caller reads the body and then calls [`Pool::give_back`].
    pub(crate) async fn send(
        &self,
        connector: &Connector,
        url: &Url,
        mut request: Request<Body>,
    ) -> Result<Answer> {
        for _ in 0..MAX_ATTEMPTS {
            let attempt = match self {
                Self::Unpooled | Self::Http1 { .. } => self.send_http1(connector, url, request).await?,
                Self::Http2 { .. } => self.send_http2(connector, url, request).await?,
            };
            match attempt {
                Attempt::Answered(response, connection) => return Ok(Answer { response, connection }),
                Attempt::NotSent(unsent) => request = unsent,
            }
        }
        bail!("response: {MAX_ATTEMPTS} connections were closed before the request was sent")
    }

    /// Makes the connection of an answer available for other requests.
    pub(crate) fn give_back(&self, connection: Option<Http1Connection>) {
        if let (Self::Http1 { idle, .. }, Some(connection)) = (self, connection) {
            lock(idle).push_back(connection);
        }
    }

    async fn send_http1(&self, connector: &Connector, url: &Url, request: Request<Body>) -> Result<Attempt> {
        let mut connection = match self.take_idle() {
            Some(connection) => connection,
            None => Http1Connection {
                sender: start_http1(connect(connector, url).await?).await?,
                _open: self.open_marker(),
            },
        };
        match connection.sender.try_send_request(request).await {
            Ok(response) => Ok(Attempt::Answered(response, Some(connection))),
            Err(mut error) => match error.take_message() {
                Some(unsent) => Ok(Attempt::NotSent(unsent)),
                None => Err(error.into_error()).context("response"),
            },
        }
    }

    async fn send_http2(&self, connector: &Connector, url: &Url, request: Request<Body>) -> Result<Attempt> {
        let Self::Http2 { places, next } = self else {
            bail!("response: the pool has no connections for HTTP/2");
        };
        let mut place = places[next.fetch_add(1, Ordering::Relaxed) % places.len()]
            .lock()
            .await;
        let mut connection = match place.take().filter(|connection| !connection.is_closed()) {
            Some(connection) => connection,
            None => start_http2(connect(connector, url).await?).await?,
        };
        *place = Some(connection.clone());
        drop(place);
        match connection.try_send_request(request).await {
            Ok(response) => Ok(Attempt::Answered(response, None)),
            Err(mut error) => match error.take_message() {
                Some(unsent) => Ok(Attempt::NotSent(unsent)),
                None => Err(error.into_error()).context("response"),
            },
        }
    }

    fn take_idle(&self) -> Option<Http1Connection> {
        let Self::Http1 { idle, open, minimum } = self else {
            return None;
        };
        let mut idle = lock(idle);
        idle.retain(|connection| !connection.sender.is_closed());
        // One reference is that of the pool.
        if Arc::strong_count(open) - 1 < *minimum {
            return None;
        }
        let ready = idle.iter().position(|connection| connection.sender.is_ready())?;
        idle.remove(ready)
    }

    fn open_marker(&self) -> Arc<()> {
        match self {
            Self::Http1 { open, .. } => Arc::clone(open),
            _ => Arc::default(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bytes of a connection, with or without TLS.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Opens a connection to the host of a URL.
async fn connect(connector: &Connector, url: &Url) -> Result<Box<dyn Stream>> {
    let stream = connector.connect(&url.target).await?;
    if url.is_https {
        let stream = tls::connect(stream, &url.target.host).await.context("tls")?;
        Ok(Box::new(stream))
    } else {
        Ok(Box::new(stream))
    }
}

/// Starts HTTP/1.1 on a connection.
async fn start_http1(stream: Box<dyn Stream>) -> Result<http1::SendRequest<Body>> {
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.context("connect")?;
    // The task ends with the connection. An error of the connection also fails the request, so it is not read here.
    tokio::spawn(connection);
    Ok(sender)
}

/// Starts HTTP/2 on a connection, without an upgrade from HTTP/1.1 (prior knowledge).
async fn start_http2(stream: Box<dyn Stream>) -> Result<Http2Connection> {
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .context("connect")?;
    tokio::spawn(connection);
    Ok(sender)
}
