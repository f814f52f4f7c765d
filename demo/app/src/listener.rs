//! Listener for HTTP/1.1 and HTTP/2, in plain text or with TLS: serves requests with a handler until shutdown, then lets
//! open requests complete.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// Time that open requests have to complete once the shutdown has begun.
pub(crate) const GRACE: Duration = Duration::from_secs(5);

/// Body of a response.
pub(crate) type Body = BoxBody<Bytes, Infallible>;

/// Binds a listener; the error names the address.
pub(crate) async fn bind(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}"))
}

/// Serves every request with `handler` until `stop` completes. Then accepts no more connections, closes idle
/// connections, and lets open requests complete. With `tls`, clients must use TLS.
pub(crate) async fn serve<H, F>(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    handler: H,
    stop: impl Future<Output = ()>,
) where
    H: Fn(Request<Incoming>, SocketAddr) -> F + Clone + Send + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let connections = GracefulShutdown::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => break,
        };
        let Ok((stream, remote)) = accepted else {
            pause_after_failure().await;
            continue;
        };
        let (tls, handler, watcher) = (tls.clone(), handler.clone(), connections.watcher());
        tokio::spawn(async move {
            match tls {
                None => serve_connection(stream, remote, handler, watcher).await,
                // The client of a failed handshake sees the connection closed.
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        serve_connection(stream, remote, handler, watcher).await;
                    }
                }
            }
        });
    }
    drop(listener);
    let _ = tokio::time::timeout(GRACE, connections.shutdown()).await;
}

/// Serves the requests of one connection.
async fn serve_connection<H, F>(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    remote: SocketAddr,
    handler: H,
    watcher: Watcher,
) where
    H: Fn(Request<Incoming>, SocketAddr) -> F + Send + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new());
    server.http2().timer(TokioTimer::new());
    let service = service_fn(move |request| {
        let response = handler(request, remote);
        async move { Ok::<_, Infallible>(response.await) }
    });
    let connection = server.serve_connection(TokioIo::new(stream), service);
    // An error ends only this connection, and the client sees it closed.
    let _ = watcher.watch(connection.into_owned()).await;
}

/// Pauses after a failure to accept a connection, such as a lack of file descriptors, to avoid a tight loop.
pub(crate) async fn pause_after_failure() {
    tokio::time::sleep(Duration::from_millis(10)).await;
}

/// Returns a JSON response.
pub(crate) fn json(status: StatusCode, value: &serde_json::Value) -> Response<Body> {
    let mut response = Response::new(Full::from(format!("{value}\n")).boxed());
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}
