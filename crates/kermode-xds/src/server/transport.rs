//! Dispatches the calls on a proxy's connection: ADS calls to the [`AdsServer`], all other calls to tonic's [`Routes`].

use bytes::Bytes;
use futures::future::{BoxFuture, Either};
use h2::RecvStream;
use h2::server::SendResponse;
use kermode_http2::{AfterCall, CallHandler, ServiceHandler};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tonic::service::Routes;

use super::AdsServer;
use kermode_protocol::ads::DELTA_AGGREGATED_RESOURCES;

/// Serves the connections of proxies, each by a clone of this value. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Transport {
    ads: AdsServer,
    other_calls: ServiceHandler<Routes>,
}

// === impl Transport ===

impl Transport {
    /// Creates a transport that passes calls other than ADS to `other_calls`.
    pub fn new(ads: AdsServer, other_calls: Routes) -> Self {
        Self {
            ads,
            other_calls: ServiceHandler(other_calls),
        }
    }

    /// Serves a connection until it ends. Runs `on_call` at the start of every call. Once `shutdown` completes, the
    /// server sends GOAWAY, and the connection ends with its last call; see [`kermode_http2::serve`].
    ///
    /// # Errors
    /// When the connection breaks or the client violates HTTP/2.
    pub fn serve<IO>(
        self,
        io: IO,
        on_call: impl Fn() + Send + 'static,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> impl Future<Output = Result<(), h2::Error>> + Send + 'static
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        kermode_http2::serve(io, self, on_call, shutdown)
    }

    /// Like [`Self::serve`], for a TLS connection.
    ///
    /// Not generic, so that the code of HTTP/2 is compiled in this crate, which is optimized for speed. The binary is
    /// optimized for size (`profile.release` in the workspace's `Cargo.toml`).
    ///
    /// # Errors
    /// When the connection breaks or the client violates HTTP/2.
    pub fn serve_tls(
        self,
        stream: TlsStream<TcpStream>,
        on_call: Box<dyn Fn() + Send>,
        shutdown: BoxFuture<'static, ()>,
    ) -> BoxFuture<'static, Result<(), h2::Error>> {
        Box::pin(self.serve(stream, on_call, shutdown))
    }
}

impl CallHandler for Transport {
    fn serve(
        self,
        request: http::Request<RecvStream>,
        respond: SendResponse<Bytes>,
    ) -> impl Future<Output = AfterCall> + Send + 'static {
        if request.uri().path() == DELTA_AGGREGATED_RESOURCES {
            Either::Left(self.ads.serve(request, respond))
        } else {
            Either::Right(CallHandler::serve(self.other_calls, request, respond))
        }
    }
}
