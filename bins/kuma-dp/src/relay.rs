//! The ADS that Envoy sees on the unix socket: every stream of Envoy's is passed on to the control plane, and ends
//! when that one does. Resources are not decoded.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use kermode_xds::wire::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, SERVICE_NAME};
use tokio::time::sleep;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;
use tower::Service;

use crate::backoff::Backoff;
use crate::upstream::Upstream;

/// The service. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Relay {
    upstream: Upstream,
    backoff: Arc<Mutex<Backoff>>,
}

impl Relay {
    pub(crate) fn new(upstream: Upstream) -> Self {
        Self {
            upstream,
            backoff: Arc::default(),
        }
    }

    async fn open(
        self,
        requests: Streaming<DeltaDiscoveryRequest>,
    ) -> Result<Streaming<DeltaDiscoveryResponse>, Status> {
        let requests = requests.filter_map(|request| std::future::ready(request.ok()));
        match self.upstream.open(requests).await {
            Ok(responses) => {
                tracing::info!("connected to the control plane");
                self.with_backoff(Backoff::reset);
                Ok(responses)
            }
            Err(error) => {
                // Envoy tries again at once after this answer, so the answer is what has to wait.
                let wait = self.with_backoff(|backoff| backoff.next(fastrand::f64()));
                tracing::warn!(
                    error = format!("{error:#}"),
                    ?wait,
                    "no configuration from the control plane"
                );
                sleep(wait).await;
                Err(Status::unavailable("the control plane cannot be reached"))
            }
        }
    }

    fn with_backoff<T>(&self, change: impl FnOnce(&mut Backoff) -> T) -> T {
        change(&mut self.backoff.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl StreamingService<DeltaDiscoveryRequest> for Relay {
    type Response = DeltaDiscoveryResponse;
    type ResponseStream = BoxStream<'static, Result<DeltaDiscoveryResponse, Status>>;
    type Future = BoxFuture<'static, Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<DeltaDiscoveryRequest>>) -> Self::Future {
        let relay = self.clone();
        Box::pin(async move { Ok(Response::new(relay.open(request.into_inner()).await?.boxed())) })
    }
}

impl NamedService for Relay {
    const NAME: &'static str = SERVICE_NAME;
}

impl Service<http::Request<Body>> for Relay {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let relay = self.clone();
        Box::pin(async move {
            let mut grpc = Grpc::new(ProstCodec::<DeltaDiscoveryResponse, DeltaDiscoveryRequest>::default());
            Ok(grpc.streaming(relay, request).await)
        })
    }
}
