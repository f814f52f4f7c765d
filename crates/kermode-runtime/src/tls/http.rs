//! HTTP/1.1 and HTTP/2 over TLS: an axum router served by hyper.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use bytes::Bytes;
use futures::future::BoxFuture;
use http::Request;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::{http1, http2};
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::{ActiveRequest, ConnectionError, ConnectionSignals, Protocol};

/// Time after which an idle HTTP/1.1 connection is closed. The API server reuses idle connections for 90 s, as Go's
/// clients do. If this server closed them earlier, a request could be in flight when the close arrives, and a webhook
/// with failure policy Fail would deny a Pod.
const IDLE_TIMEOUT: Duration = Duration::from_mins(2);
/// Maximum size of the send buffer of one request, in bytes: two frames. Bounds the memory that a slow client takes.
const SEND_BUFFER_SIZE: usize = 32 * 1024;
/// Limit on concurrent requests of one connection.
const MAX_CONCURRENT_REQUESTS: u32 = 1024;

/// Serves the HTTP version that the TLS handshake negotiated. Detecting the version from the first bytes would wait for
/// a client that sends nothing.
impl Protocol for Router {
    fn alpn_names(&self) -> Vec<Vec<u8>> {
        vec![b"h2".to_vec(), b"http/1.1".to_vec()]
    }

    fn serve(
        &self,
        stream: TlsStream<TcpStream>,
        signals: ConnectionSignals,
    ) -> BoxFuture<'static, Result<(), ConnectionError>> {
        let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let shutdown = signals.shutdown().wait();
        let router = TowerToHyperService::new(self.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            // Ends the time limit of the first request, although the body may still be incomplete.
            signals.request_received();
            let active_request = Arc::default();
            let response = router.call(request.map(|body| RequestBody::new(body, &signals, &active_request)));
            async move {
                let response = response.await;
                drop(active_request);
                response
            }
        });
        let io = TokioIo::new(stream);
        if is_h2 {
            Box::pin(serve_until_shutdown(
                shutdown,
                Box::pin(http2_builder().serve_connection(io, service)),
            ))
        } else {
            Box::pin(serve_until_shutdown(
                shutdown,
                Box::pin(http1_builder().serve_connection(io, service)),
            ))
        }
    }
}

/// Drives a connection until its end. Once `shutdown` completes, only requests in progress are served.
async fn serve_until_shutdown<C>(
    shutdown: impl Future<Output = ()>,
    mut connection: Pin<Box<C>>,
) -> Result<(), ConnectionError>
where
    C: GracefulConnection<Error = hyper::Error>,
{
    tokio::select! {
        result = &mut connection => return Ok(result?),
        () = shutdown => connection.as_mut().graceful_shutdown(),
    }
    Ok(connection.await?)
}

/// Body of a request. Once the client has sent the whole body, the request counts as in progress until the handler
/// returns its response. A connection that has only incomplete requests is idle.
struct RequestBody {
    body: Incoming,
    signals: ConnectionSignals,
    active_request: Arc<OnceLock<ActiveRequest>>,
}

impl RequestBody {
    fn new(
        body: Incoming,
        signals: &ConnectionSignals,
        active_request: &Arc<OnceLock<ActiveRequest>>,
    ) -> Self {
        let body = Self {
            body,
            signals: signals.clone(),
            active_request: active_request.clone(),
        };
        if body.is_end_stream() {
            body.start_request();
        }
        body
    }

    fn start_request(&self) {
        self.active_request.get_or_init(|| self.signals.start_request());
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if matches!(polled, Poll::Ready(None)) || self.body.is_end_stream() {
            self.start_request();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn http1_builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(IDLE_TIMEOUT);
    builder
}

fn http2_builder() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_send_buf_size(SEND_BUFFER_SIZE)
        .max_concurrent_streams(MAX_CONCURRENT_REQUESTS);
    builder
}
