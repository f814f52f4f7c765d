//! Client with which the sidecar agent calls the gRPC services of the control plane.

use std::sync::Arc;

use bytes::Bytes;
use futures::Stream;
use http::uri::PathAndQuery;
use tonic::body::Body;
use tonic::client::{Grpc, GrpcService};
use tonic::codegen::StdError;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::ads::{DELTA_AGGREGATED_RESOURCES, DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use crate::certificates::{
    ISSUE_CERTIFICATE, IssueCertificateRequest, IssueCertificateResponse, RootsUpdate, WATCH_ROOTS,
    WatchRootsRequest,
};
use crate::closed_ports::{REPORT_CLOSED_PORT, ReportClosedPortRequest, ReportClosedPortResponse};
use crate::completion::{AWAIT_COMPLETION, AwaitCompletionRequest, AwaitCompletionResponse};
use crate::names::{RESOLVE, ResolveRequest, ResolveResponse};
use crate::removals::{WATCH_REMOVAL, WatchRemovalRequest, WatchRemovalResponse};

/// Maximum size of one [`RootsUpdate`], in bytes. The two root certificates of a CA rotation have a few kilobytes.
const MAX_ROOTS_UPDATE_SIZE: usize = 256 * 1024;

/// Value of the `authorization` metadata: `Bearer <token>`.
pub type Authorization = MetadataValue<Ascii>;

/// Client of one control plane; cheap to clone. Every call carries its own authorization, because the kubelet replaces
/// tokens during the life of a channel.
///
/// Calls fail with the status that the server returned. A call that did not reach the server fails with a status whose
/// `source` is the transport's error.
#[derive(Clone, Debug)]
pub struct Client<T = Channel> {
    service: T,
}

impl<T> Client<T>
where
    T: GrpcService<Body> + Clone,
    T::Error: Into<StdError>,
    T::ResponseBody: http_body::Body<Data = Bytes> + Send + 'static,
    <T::ResponseBody as http_body::Body>::Error: Into<StdError> + Send,
{
    /// Returns a client that calls through `service`, which is usually a [`Channel`].
    pub fn new(service: T) -> Self {
        Self { service }
    }

    /// Opens an ADS stream that sends `requests`. Responses are not limited in size.
    pub async fn stream_resources(
        &self,
        authorization: Authorization,
        requests: impl Stream<Item = DeltaDiscoveryRequest> + Send + 'static,
    ) -> Result<Streaming<DeltaDiscoveryResponse>, Status> {
        let mut grpc = self.ready_client().await?.max_decoding_message_size(usize::MAX);
        let request = authorized(authorization, requests);
        let path = PathAndQuery::from_static(DELTA_AGGREGATED_RESOURCES);
        let response = grpc.streaming(request, path, ProstCodec::default()).await?;
        Ok(response.into_inner())
    }

    /// Requests a certificate.
    pub async fn issue_certificate(
        &self,
        authorization: Authorization,
        request: IssueCertificateRequest,
    ) -> Result<IssueCertificateResponse, Status> {
        let mut grpc = self.ready_client().await?;
        let request = authorized(authorization, request);
        let path = PathAndQuery::from_static(ISSUE_CERTIFICATE);
        let response = grpc.unary(request, path, ProstCodec::default()).await?;
        Ok(response.into_inner())
    }

    /// Opens a stream of a mesh's trust bundle.
    pub async fn watch_roots(
        &self,
        authorization: Authorization,
        request: WatchRootsRequest,
    ) -> Result<Streaming<RootsUpdate>, Status> {
        let mut grpc = self
            .ready_client()
            .await?
            .max_decoding_message_size(MAX_ROOTS_UPDATE_SIZE);
        let request = authorized(authorization, request);
        let path = PathAndQuery::from_static(WATCH_ROOTS);
        let response = grpc
            .server_streaming(request, path, ProstCodec::default())
            .await?;
        Ok(response.into_inner())
    }

    /// Opens a stream of the status of the removal of the caller's endpoint.
    pub async fn watch_removal(
        &self,
        authorization: Authorization,
    ) -> Result<Streaming<WatchRemovalResponse>, Status> {
        let mut grpc = self.ready_client().await?;
        let request = authorized(authorization, WatchRemovalRequest {});
        let path = PathAndQuery::from_static(WATCH_REMOVAL);
        let response = grpc
            .server_streaming(request, path, ProstCodec::default())
            .await?;
        Ok(response.into_inner())
    }

    /// Reports a closed port of the caller's Pod.
    pub async fn report_closed_port(
        &self,
        authorization: Authorization,
        request: ReportClosedPortRequest,
    ) -> Result<ReportClosedPortResponse, Status> {
        let mut grpc = self.ready_client().await?;
        let request = authorized(authorization, request);
        let path = PathAndQuery::from_static(REPORT_CLOSED_PORT);
        let response = grpc.unary(request, path, ProstCodec::default()).await?;
        Ok(response.into_inner())
    }

    /// Waits until the application of the caller's Pod has ended. Returns at once if the application never ends.
    pub async fn await_completion(
        &self,
        authorization: Authorization,
    ) -> Result<AwaitCompletionResponse, Status> {
        let mut grpc = self.ready_client().await?;
        let request = authorized(authorization, AwaitCompletionRequest {});
        let path = PathAndQuery::from_static(AWAIT_COMPLETION);
        let response = grpc.unary(request, path, ProstCodec::default()).await?;
        Ok(response.into_inner())
    }

    /// Resolves a name that ends in `.mesh`.
    pub async fn resolve_name(
        &self,
        authorization: Authorization,
        request: ResolveRequest,
    ) -> Result<ResolveResponse, Status> {
        let mut grpc = self.ready_client().await?;
        let request = authorized(authorization, request);
        let path = PathAndQuery::from_static(RESOLVE);
        let response = grpc.unary(request, path, ProstCodec::default()).await?;
        Ok(response.into_inner())
    }

    /// Returns a client for one call once the service accepts a call.
    async fn ready_client(&self) -> Result<Grpc<T>, Status> {
        let mut grpc = Grpc::new(self.service.clone());
        grpc.ready().await.map_err(|error| {
            let error: StdError = error.into();
            let mut status = Status::unavailable("cannot connect to the control plane");
            status.set_source(Arc::from(error));
            status
        })?;
        Ok(grpc)
    }
}

fn authorized<M>(authorization: Authorization, message: M) -> Request<M> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", authorization);
    request
}
