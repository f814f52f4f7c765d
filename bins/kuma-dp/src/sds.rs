//! The secret discovery service on the unix socket: hands the workload's certificate and the mesh's roots to Envoy.

mod stream;

use std::sync::Arc;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use kermode_model::MeshName;
use kermode_protocol::rpc::Method;
use kermode_protocol::secrets::{DiscoveryRequest, DiscoveryResponse, SERVICE_NAME, STREAM_SECRETS};
use tokio::sync::{Notify, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::server::{Grpc, StreamingService};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

pub(crate) use stream::Identity;
use stream::{Names, Stream};

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

impl Method for SecretService {
    const SERVICE: &'static str = SERVICE_NAME;
    const PATH: &'static str = STREAM_SECRETS;

    fn call(self, request: http::Request<Body>) -> BoxFuture<'static, http::Response<Body>> {
        Box::pin(async move {
            let mut grpc = Grpc::new(ProstCodec::<DiscoveryResponse, DiscoveryRequest>::default());
            grpc.streaming(self, request).await
        })
    }
}
