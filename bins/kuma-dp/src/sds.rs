//! The secret discovery service on the unix socket: hands the workload's certificate and the mesh's roots to Envoy.

mod messages;
mod stream;

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use kermode_model::MeshName;
use tokio::sync::{Notify, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;
use tower::Service;

use messages::{DiscoveryRequest, DiscoveryResponse};
pub(crate) use stream::Identity;
use stream::{Names, Stream};

const STREAM_SECRETS: &str = "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets";

/// The service. Cheap to clone.
#[derive(Clone)]
pub(crate) struct SecretService {
    names: Names,
    identity: watch::Receiver<Option<Arc<Identity>>>,
    wanted: Arc<Notify>,
}

impl SecretService {
    /// Serves what `identity` holds. `wanted` is notified when Envoy asks for secrets that are not there.
    pub(crate) fn new(
        mesh: &MeshName,
        identity: watch::Receiver<Option<Arc<Identity>>>,
        wanted: Arc<Notify>,
    ) -> Self {
        Self {
            names: Names::of(mesh),
            identity,
            wanted,
        }
    }

    /// Serves one stream to its end.
    async fn serve(
        mut self,
        mut requests: Streaming<DiscoveryRequest>,
        responses: mpsc::Sender<Result<DiscoveryResponse, Status>>,
    ) {
        let mut stream = Stream::new(self.names.clone());
        loop {
            let response = tokio::select! {
                request = requests.next() => match request {
                    Some(Ok(request)) => {
                        let identity = self.identity.borrow_and_update().clone();
                        stream.on_request(request, identity.as_deref())
                    }
                    Some(Err(_)) | None => return,
                },
                changed = self.identity.changed() => {
                    // The sender is gone only when the process ends.
                    if changed.is_err() {
                        return;
                    }
                    let identity = self.identity.borrow_and_update().clone();
                    stream.on_identity(identity.as_deref())
                }
            };
            if stream.is_waiting() {
                self.wanted.notify_one();
            }
            if let Some(response) = response
                && responses.send(Ok(response)).await.is_err()
            {
                return;
            }
        }
    }
}

impl StreamingService<DiscoveryRequest> for SecretService {
    type Response = DiscoveryResponse;
    type ResponseStream = BoxStream<'static, Result<DiscoveryResponse, Status>>;
    type Future = BoxFuture<'static, Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<DiscoveryRequest>>) -> Self::Future {
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(self.clone().serve(request.into_inner(), sender));
        Box::pin(async { Ok(Response::new(ReceiverStream::new(receiver).boxed())) })
    }
}

impl NamedService for SecretService {
    const NAME: &'static str = "envoy.service.secret.v3.SecretDiscoveryService";
}

impl Service<http::Request<Body>> for SecretService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            if request.uri().path() != STREAM_SECRETS {
                return Ok(Status::unimplemented("only StreamSecrets is served").into_http());
            }
            let mut grpc = Grpc::new(ProstCodec::<DiscoveryResponse, DiscoveryRequest>::default());
            Ok(grpc.streaming(service, request).await)
        })
    }
}
