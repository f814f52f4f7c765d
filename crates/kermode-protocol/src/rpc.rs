//! Adapter of gRPC services without generated code to tonic's router.

use std::convert::Infallible;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;

/// gRPC service without code that tonic generates.
pub trait GrpcService: Clone + Send + 'static {
    /// Name of the service, package included.
    const NAME: &'static str;
    /// Paths of the service's methods: `/<service>/<method>`.
    const METHOD_PATHS: &'static [&'static str];

    /// Serves one call. The path of the request is one of [`Self::METHOD_PATHS`].
    fn call(self, request: http::Request<Body>) -> BoxFuture<'static, http::Response<Body>>;
}

/// Adapts a [`GrpcService`] to tonic's router. Calls of methods that the service does not have get `UNIMPLEMENTED`.
#[derive(Clone, Debug)]
pub struct Rpc<S>(pub S);

impl<S: GrpcService> NamedService for Rpc<S> {
    const NAME: &'static str = S::NAME;
}

impl<S: GrpcService> tower::Service<http::Request<Body>> for Rpc<S> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = self.0.clone();
        Box::pin(async move {
            if !S::METHOD_PATHS.contains(&request.uri().path()) {
                let text = format!("the methods of {} are {}", S::NAME, S::METHOD_PATHS.join(", "));
                return Ok(Status::unimplemented(text).into_http());
            }
            Ok(service.call(request).await)
        })
    }
}
