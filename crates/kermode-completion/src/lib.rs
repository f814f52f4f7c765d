//! gRPC service by which a classic sidecar learns that its application has ended: the server side of
//! [`kermode_protocol::completion`] (docs/reference/dataplane.md#finished-jobs).
//!
//! The sidecars of Pods that may finish, usually Pods of Jobs, keep one call open each. The engine notifies the waiting
//! call when the index reports that all containers of the application have ended. Nothing polls.

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use kermode_authentication::{Authenticator, ProxyIdentity};
use kermode_k8s::convert::completion;
use kermode_k8s::shared_index::SharedIndex;
use kermode_limit::{KeyedLimit, TotalLimitReached};
use kermode_model::ObjectKey;
use kermode_protocol::completion::{
    AWAIT_COMPLETION, AwaitCompletionRequest, AwaitCompletionResponse, SERVICE_NAME,
};
use kermode_protocol::rpc::GrpcService;
use tonic::body::Body;
use tonic::server::{Grpc, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

/// Maximum size of a request, in bytes. Requests have no fields.
const MAX_REQUEST_SIZE: usize = 1024;
/// Maximum number of concurrent calls of a proxy. A further call supersedes the oldest. A sidecar needs one call, but may
/// reconnect before the control plane detects that the connection of the first call is broken.
const MAX_CALLS_PER_PROXY: usize = 2;
/// Maximum number of concurrent calls of all proxies, equal to the limit of ADS streams of a replica.
const MAX_CALLS: usize = 20_000;

/// The gRPC service. Cheap to clone.
#[derive(Clone)]
pub struct CompletionService {
    inner: Arc<ServiceInner>,
}

struct ServiceInner {
    authenticator: Box<dyn Authenticator>,
    index: SharedIndex,
    calls: KeyedLimit<ObjectKey>,
}

// === impl CompletionService ===

impl CompletionService {
    /// Creates the service, which reads the containers of Pods from `index`.
    pub fn new(authenticator: impl Authenticator, index: SharedIndex) -> Self {
        Self {
            inner: Arc::new(ServiceInner {
                authenticator: Box::new(authenticator),
                index,
                calls: KeyedLimit::new(MAX_CALLS_PER_PROXY, MAX_CALLS),
            }),
        }
    }
}

impl fmt::Debug for CompletionService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompletionService").finish_non_exhaustive()
    }
}

// === impl ServiceInner ===

impl ServiceInner {
    /// Handles a call until the application has ended, the Pod is deleted, or a newer call supersedes this one.
    async fn on_call(&self, request: Request<AwaitCompletionRequest>) -> Result<bool, Status> {
        let headers = request.into_parts().0.into_headers();
        let identity = self.authenticator.authenticate(&headers).await?;
        let permit = self.calls.acquire_superseding(&identity.key);
        let mut permit = permit.map_err(too_many_calls)?;
        tokio::select! {
            is_finished = self.wait(&identity) => is_finished,
            _ = permit.revoked() => Err(Status::aborted("a newer call of this proxy supersedes this call")),
        }
    }

    /// Waits for the end of the application. Returns false at once if the application never ends.
    async fn wait(&self, identity: &ProxyIdentity) -> Result<bool, Status> {
        let key = &identity.key;
        // Subscribed before the first look, so that no change is missed.
        let mut changes = self.index.changes_of(key);
        loop {
            // Fails once the Pod is deleted, or replaced by a Pod of the same name.
            self.authenticator.authorize(identity)?;
            let (may_finish, is_finished) = {
                let index = self.index.read();
                let pod = index.pod(key);
                let pod = pod.ok_or_else(|| Status::not_found(format!("no Pod {key} with a sidecar")))?;
                (
                    completion::application_may_finish(pod),
                    completion::sidecar_must_quit(pod),
                )
            };
            if is_finished {
                tracing::info!(dataplane = %key, "the application has ended, so its classic sidecar ends");
                return Ok(true);
            }
            if !may_finish {
                return Ok(false);
            }
            changes.changed().await;
        }
    }
}

fn too_many_calls(TotalLimitReached(limit): TotalLimitReached) -> Status {
    Status::resource_exhausted(format!(
        "{limit} sidecars of this replica wait for the end of their application, which is its limit; try another replica"
    ))
}

// === gRPC ===

impl GrpcService for CompletionService {
    const NAME: &'static str = SERVICE_NAME;
    const METHOD_PATHS: &'static [&'static str] = &[AWAIT_COMPLETION];

    fn call(self, request: http::Request<Body>) -> BoxFuture<'static, http::Response<Body>> {
        Box::pin(async move {
            let codec = ProstCodec::<AwaitCompletionResponse, AwaitCompletionRequest>::default();
            let mut grpc = Grpc::new(codec).max_decoding_message_size(MAX_REQUEST_SIZE);
            grpc.unary(self, request).await
        })
    }
}

impl UnaryService<AwaitCompletionRequest> for CompletionService {
    type Response = AwaitCompletionResponse;
    type Future = BoxFuture<'static, Result<Response<AwaitCompletionResponse>, Status>>;

    fn call(&mut self, request: Request<AwaitCompletionRequest>) -> Self::Future {
        let inner = self.inner.clone();
        Box::pin(async move {
            let is_finished = inner.on_call(request).await?;
            Ok(Response::new(AwaitCompletionResponse { is_finished }))
        })
    }
}

#[cfg(test)]
mod tests;
