//! Secret discovery service (SDS) on the unix socket: serves the proxy's certificate and the mesh's trust bundle to
//! Envoy. The private key exists only in the memory of the agent and of Envoy.

mod stream;

use std::sync::Arc;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use kermode_model::MeshName;
use kermode_protocol::rpc::GrpcService;
use kermode_protocol::secrets::{DiscoveryRequest, DiscoveryResponse, SERVICE_NAME, STREAM_SECRETS};
use tokio::sync::{Notify, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::server::{Grpc, StreamingService};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

pub use stream::SecretMaterial;
use stream::{SdsSecretNames, SdsStream};

/// SDS service for Envoy; cheap to clone.
///
/// Envoy subscribes to *secrets*. The *material* is the source of all secrets.
#[derive(Clone)]
pub struct SecretService {
    names: SdsSecretNames,
    material: watch::Receiver<Option<Arc<SecretMaterial>>>,
    secrets_wanted: Arc<Notify>,
}

impl SecretService {
    /// Creates a service that serves the latest value of `material`. `secrets_wanted` is notified when Envoy subscribes
    /// and gets no response yet.
    pub fn new(
        mesh: &MeshName,
        material: watch::Receiver<Option<Arc<SecretMaterial>>>,
        secrets_wanted: Arc<Notify>,
    ) -> Self {
        Self {
            names: SdsSecretNames::of(mesh),
            material,
            secrets_wanted,
        }
    }

    /// Serves one stream until the stream ends.
    async fn serve(
        mut self,
        mut requests: Streaming<DiscoveryRequest>,
        responses: mpsc::Sender<Result<DiscoveryResponse, Status>>,
    ) {
        let mut stream = SdsStream::new(self.names.clone());
        loop {
            let response = tokio::select! {
                request = requests.next() => match request {
                    Some(Ok(request)) => {
                        let material = self.material.borrow_and_update().clone();
                        stream.on_request(request, material.as_deref())
                    }
                    Some(Err(_)) | None => return,
                },
                changed = self.material.changed() => {
                    // The sender is only dropped when the process ends.
                    if changed.is_err() {
                        return;
                    }
                    let material = self.material.borrow_and_update().clone();
                    stream.on_material(material.as_deref())
                }
            };
            if stream.envoy_waits_for_secrets() {
                self.secrets_wanted.notify_one();
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

impl GrpcService for SecretService {
    const NAME: &'static str = SERVICE_NAME;
    const METHOD_PATHS: &'static [&'static str] = &[STREAM_SECRETS];

    fn call(self, request: http::Request<Body>) -> BoxFuture<'static, http::Response<Body>> {
        Box::pin(async move {
            let mut grpc = Grpc::new(ProstCodec::<DiscoveryResponse, DiscoveryRequest>::default());
            grpc.streaming(self, request).await
        })
    }
}
