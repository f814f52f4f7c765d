//! Adapter of hand-written gRPC methods to tonic's router.

use std::convert::Infallible;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;

/// gRPC service with a single method.
pub trait Method: Clone + Send + 'static {
    /// Name of the service, package included.
    const SERVICE: &'static str;
    /// Path of the method: `/<service>/<method>`.
    const PATH: &'static str;

    /// Serves one call of the method.
    fn call(self, request: http::Request<Body>) -> BoxFuture<'static, http::Response<Body>>;
}

/// Adapts a [`Method`] to tonic's router. Calls of other methods of its service get `UNIMPLEMENTED`.
#[derive(Clone, Debug)]
pub struct Rpc<M>(pub M);

impl<M: Method> NamedService for Rpc<M> {
    const NAME: &'static str = M::SERVICE;
}

impl<M: Method> tower::Service<http::Request<Body>> for Rpc<M> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let method = self.0.clone();
        Box::pin(async move {
            if request.uri().path() != M::PATH {
                let text = format!("{} has no other method than {}", M::SERVICE, M::PATH);
                return Ok(Status::unimplemented(text).into_http());
            }
            Ok(method.call(request).await)
        })
    }
}
