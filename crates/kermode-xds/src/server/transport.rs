//! Dispatch of the calls on a proxy's connection: ADS calls to the [`AdsServer`], all other calls to a service.

use std::convert::Infallible;

use bytes::Bytes;
use futures::future::Either;
use h2::RecvStream;
use h2::server::SendResponse;
use kermode_http2::{AfterCall, CallHandler, RequestBody, ServiceHandler};
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::body::Body;
use tower::Service;

use super::AdsServer;
use kermode_protocol::ads::DELTA_AGGREGATED_RESOURCES;

/// Serves the connections of proxies. Cheap to clone: the caller passes a clone to each connection.
#[derive(Clone, Debug)]
pub struct Transport<S> {
    ads: AdsServer,
    other_calls: ServiceHandler<S>,
}

// === impl Transport ===

impl<S> Transport<S>
where
    S: Service<http::Request<RequestBody>, Response = http::Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
{
    /// Creates a transport that passes calls other than ADS to `other_calls`.
    pub fn new(ads: AdsServer, other_calls: S) -> Self {
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
}

impl<S> CallHandler for Transport<S>
where
    S: Service<http::Request<RequestBody>, Response = http::Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
{
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
