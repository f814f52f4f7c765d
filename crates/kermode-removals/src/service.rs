//! gRPC service of endpoint removals: the server side of [`kermode_protocol::removals`].

use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt as _};
use kermode_authentication::Authenticator;
use kermode_limit::{KeyedLimit, TotalLimitReached};
use kermode_model::ObjectKey;
use kermode_protocol::removals::{SERVICE_NAME, WATCH_REMOVAL, WatchRemovalRequest, WatchRemovalResponse};
use kermode_protocol::rpc::GrpcService;
use tokio::sync::watch;
use tonic::body::Body;
use tonic::server::{Grpc, ServerStreamingService};
use tonic::{Request, Response, Status};

use crate::removals::{EndpointRemovals, PublishedSequence};
use crate::replicas::Replicas;
use crate::status::{RemovalReport, RemovalStatus};

/// Maximum size of a request, in bytes. Requests have no fields.
const MAX_REQUEST_SIZE: usize = 1024;

/// Maximum number of concurrent calls of a proxy. A further call supersedes the oldest. A sidecar needs one call.
const MAX_CALLS_PER_PROXY: usize = 4;
/// Maximum number of concurrent calls of all proxies. Bounds CPU time, since each call evaluates its removal once a
/// second.
const MAX_CALLS: usize = 5_000;

/// The gRPC service of endpoint removals. Cheap to clone.
#[derive(Clone)]
pub struct RemovalService {
    inner: Arc<ServiceInner>,
}

struct ServiceInner {
    removals: EndpointRemovals,
    published_sequence: Arc<PublishedSequence>,
    replicas: watch::Receiver<Replicas>,
    authenticator: Box<dyn Authenticator>,
    calls: KeyedLimit<ObjectKey>,
}

fn to_response(report: &RemovalReport) -> WatchRemovalResponse {
    let (is_removed, unacknowledged_by, elapsed) = match report.status {
        RemovalStatus::NotRemoved => (false, 0, None),
        RemovalStatus::Pending { proxies } => (true, proxies as u64, None),
        RemovalStatus::Acknowledged { after } => (true, 0, Some(after.as_millis())),
    };
    WatchRemovalResponse {
        removed: is_removed,
        unacknowledged_by,
        took_ms: elapsed.map_or(0, |elapsed| elapsed.try_into().unwrap_or(u64::MAX)),
        other_replicas: report.other_replicas.iter().map(ToString::to_string).collect(),
        covers_all_proxies: report.covers_all_proxies,
    }
}

// === impl RemovalService ===

impl RemovalService {
    /// Creates the service that reports the status of `removals`.
    pub fn new(
        removals: EndpointRemovals,
        published_sequence: Arc<PublishedSequence>,
        replicas: watch::Receiver<Replicas>,
        authenticator: impl Authenticator,
    ) -> Self {
        Self {
            inner: Arc::new(ServiceInner {
                removals,
                published_sequence,
                replicas,
                authenticator: Box::new(authenticator),
                calls: KeyedLimit::new(MAX_CALLS_PER_PROXY, MAX_CALLS),
            }),
        }
    }
}

impl std::fmt::Debug for RemovalService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RemovalService").finish_non_exhaustive()
    }
}

impl GrpcService for RemovalService {
    const NAME: &'static str = SERVICE_NAME;
    const METHOD_PATHS: &'static [&'static str] = &[WATCH_REMOVAL];

    fn call(self, request: http::Request<Body>) -> BoxFuture<'static, http::Response<Body>> {
        let method = WatchRemoval(self.inner);
        Box::pin(async move {
            let codec = tonic_prost::ProstCodec::default();
            let mut grpc = Grpc::new(codec).max_decoding_message_size(MAX_REQUEST_SIZE);
            grpc.server_streaming(method, request).await
        })
    }
}

/// Method `WatchRemoval` of the service.
struct WatchRemoval(Arc<ServiceInner>);

impl ServerStreamingService<WatchRemovalRequest> for WatchRemoval {
    type Response = WatchRemovalResponse;
    type ResponseStream = BoxStream<'static, Result<WatchRemovalResponse, Status>>;
    type Future = BoxFuture<'static, Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<WatchRemovalRequest>) -> Self::Future {
        let inner = self.0.clone();
        Box::pin(async move {
            let metadata = request.into_parts().0.into_headers();
            let identity = inner.authenticator.authenticate(&metadata).await?;
            // A terminating Pod is authorized, because its Dataplane exists until the Pod is deleted. A deleted Pod is
            // rejected, even if another Pod has its name now.
            inner.authenticator.authorize(&identity)?;
            let permit = inner.calls.acquire_superseding(&identity.key);
            let mut permit = permit.map_err(too_many_calls)?;
            let (published_sequence, replicas) = (inner.published_sequence.clone(), inner.replicas.clone());
            let reports = inner.removals.watch(identity.key, published_sequence, replicas);
            let responses = reports.map(|report| Ok(to_response(&report)));
            let revoked = async move { permit.revoked().await };
            Ok(Response::new(responses.take_until(revoked.boxed()).boxed()))
        })
    }
}

fn too_many_calls(TotalLimitReached(limit): TotalLimitReached) -> Status {
    Status::resource_exhausted(format!(
        "this replica serves {limit} watches of endpoint removals, which is its limit; try another replica"
    ))
}

#[cfg(test)]
mod tests;
