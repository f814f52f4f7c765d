//! HTTP/1.1 and HTTP/2 with a router, by hyper.

use std::pin::Pin;
use std::time::Duration;

use axum::Router;
use futures::future::BoxFuture;
use hyper::server::conn::{http1, http2};
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::{BrokenConnection, Protocol, Signs};

/// The API server keeps a connection for 90 s without using it, as Go's clients do. Closing earlier would now and then
/// cross one of its requests, which it does not send again: with that, a webhook that must answer refuses a Pod.
const NEXT_REQUEST_TIMEOUT: Duration = Duration::from_mins(2);
/// How much of an answer waits in a stream for a client that does not read as fast, in bytes: two frames.
const SEND_BUFFER: usize = 32 * 1024;
/// Requests that one connection may have at once.
const MAX_STREAMS: u32 = 1024;

/// Serves what the handshake agreed on. Nothing is guessed from what the client sends, since a client that sends
/// nothing would be waited for.
impl Protocol for Router {
    fn names(&self) -> Vec<Vec<u8>> {
        vec![b"h2".to_vec(), b"http/1.1".to_vec()]
    }

    fn serve(
        &self,
        stream: TlsStream<TcpStream>,
        signs: Signs,
    ) -> BoxFuture<'static, Result<(), BrokenConnection>> {
        let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let finished = signs.shutdown().wait();
        let router = TowerToHyperService::new(self.clone());
        let service = service_fn(move |request| {
            signs.asked();
            router.call(request)
        });
        let io = TokioIo::new(stream);
        if is_h2 {
            Box::pin(until(finished, Box::pin(http2().serve_connection(io, service))))
        } else {
            Box::pin(until(finished, Box::pin(http1().serve_connection(io, service))))
        }
    }
}

/// Lets a connection go on until its end, from `finished` on with what has begun alone.
async fn until<C>(
    finished: impl Future<Output = ()>,
    mut connection: Pin<Box<C>>,
) -> Result<(), BrokenConnection>
where
    C: GracefulConnection<Error = hyper::Error>,
{
    tokio::select! {
        ended = &mut connection => return Ok(ended?),
        () = finished => connection.as_mut().graceful_shutdown(),
    }
    Ok(connection.await?)
}

fn http1() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(NEXT_REQUEST_TIMEOUT);
    builder
}

fn http2() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_send_buf_size(SEND_BUFFER)
        .max_concurrent_streams(MAX_STREAMS);
    builder
}
