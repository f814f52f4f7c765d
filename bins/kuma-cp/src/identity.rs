//! Issues workload certificates: a thin gRPC shell around `kermode-identity`.
//!
//! A proxy is given exactly the names of its own Dataplane, whatever its request says, and only with a token that
//! is bound to that Pod.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use futures::future::BoxFuture;
use kermode_identity::api::{
    ISSUE_CERTIFICATE_PATH, IssueCertificateRequest, IssueCertificateResponse, SERVICE_NAME,
};
use kermode_identity::{Entitlement, TrustBundle};
use kermode_model::{MeshName, ObjectKey};
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Code, Request, Response, Status};

use crate::authentication::{Authentication, Refused};
use crate::authorities::Authorities;
use crate::mesh::SharedIndex;

/// The service; cheap to clone.
#[derive(Clone)]
pub(crate) struct Identity {
    shared: Arc<Shared>,
}

struct Shared {
    authentication: Authentication,
    authorities: Authorities,
    index: SharedIndex,
    metrics: Metrics,
}

/// Counts requests for certificates.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics {
    requests: Family<RequestLabels, Counter>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    result: RequestResult,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
enum RequestResult {
    Issued,
    Refused,
    NotReady,
    Failed,
}

// === impl Metrics ===

impl Metrics {
    /// Registers the counter.
    pub(crate) fn register(&self, registry: &mut Registry) {
        let help = "Requests for workload certificates";
        registry.register("certificate_requests", help, self.requests.clone());
    }

    fn count(&self, outcome: &Result<IssueCertificateResponse, Status>) {
        let result = match outcome.as_ref().map_err(Status::code) {
            Ok(_) => RequestResult::Issued,
            Err(Code::Unauthenticated | Code::PermissionDenied | Code::InvalidArgument) => {
                RequestResult::Refused
            }
            Err(Code::NotFound | Code::FailedPrecondition) => RequestResult::NotReady,
            Err(_) => RequestResult::Failed,
        };
        self.requests.get_or_create(&RequestLabels { result }).inc();
    }
}

// === impl Identity ===

impl Identity {
    /// The service on top of its parts.
    pub(crate) fn new(
        authentication: Authentication,
        authorities: Authorities,
        index: SharedIndex,
        metrics: Metrics,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                authentication,
                authorities,
                index,
                metrics,
            }),
        }
    }
}

impl Shared {
    async fn issue(
        &self,
        request: Request<IssueCertificateRequest>,
    ) -> Result<IssueCertificateResponse, Status> {
        let (metadata, _, request) = request.into_parts();
        let proxy = ObjectKey::from_proxy_name(&request.name).ok_or_else(|| {
            Status::invalid_argument(format!("proxy name {:?} is not <pod>.<namespace>", request.name))
        })?;
        self.authentication
            .check(&metadata.into_headers(), &proxy)
            .await
            .map_err(|refused| status(&refused))?;
        let not_found = || Status::not_found(format!("no Dataplane {proxy} in mesh {:?} yet", request.mesh));
        let (dataplane, mesh) = self
            .index
            .dataplane_and_mesh(&proxy)
            .filter(|(dataplane, _)| dataplane.mesh == MeshName::from(request.mesh.as_str()))
            .ok_or_else(not_found)?;
        let mtls = mesh.mtls.as_ref().ok_or_else(|| {
            Status::failed_precondition(format!("mesh {} has no mTLS backend enabled", mesh.name))
        })?;
        let authority = self
            .authorities
            .get(&mesh.name, &mtls.backend)
            .await
            .map_err(|error| {
                tracing::error!(mesh = %mesh.name, "certificate cannot be issued: {error:#}");
                Status::unavailable("the mesh's certificate authority is not available")
            })?;
        let entitlement = Entitlement::of(&dataplane);
        let issued = authority
            .sign_csr(
                &request.csr_der,
                &entitlement,
                mtls.certificate_lifetime,
                SystemTime::now(),
            )
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        tracing::info!(dataplane = %proxy, mesh = %mesh.name, "certificate issued");
        Ok(IssueCertificateResponse::new(
            &issued,
            &TrustBundle::new([authority.certificate().clone()]),
        ))
    }
}

/// What a caller that is not let in is told. The log has it too: an attempt to be somebody else is worth a look. Of
/// strangers only who asks for details hears: there may be any number.
pub(crate) fn status(refused: &Refused) -> Status {
    let code = match refused {
        Refused::UnknownProxy(_) | Refused::OtherPod(_) => Code::NotFound,
        Refused::Unavailable(_) | Refused::TooSlow => Code::Unavailable,
        Refused::NoToken | Refused::NotBound | Refused::Foreign(_) | Refused::InvalidToken(_) => {
            Code::Unauthenticated
        }
        Refused::NotYours { .. } => Code::PermissionDenied,
    };
    match code {
        Code::NotFound => tracing::debug!("proxy has to wait: {refused}"),
        Code::Unauthenticated => tracing::debug!("caller refused: {refused}"),
        _ => tracing::warn!("proxy refused: {refused}"),
    }
    Status::new(code, refused.to_string())
}

// === gRPC ===

impl NamedService for Identity {
    const NAME: &'static str = SERVICE_NAME;
}

impl tower::Service<http::Request<Body>> for Identity {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let method = Issue(self.shared.clone());
        Box::pin(async move {
            if request.uri().path() != ISSUE_CERTIFICATE_PATH {
                return Ok(Status::unimplemented("unknown method").into_http());
            }
            let codec = tonic_prost::ProstCodec::default();
            Ok(Grpc::new(codec).unary(method, request).await)
        })
    }
}

struct Issue(Arc<Shared>);

impl UnaryService<IssueCertificateRequest> for Issue {
    type Response = IssueCertificateResponse;
    type Future = BoxFuture<'static, Result<Response<IssueCertificateResponse>, Status>>;

    fn call(&mut self, request: Request<IssueCertificateRequest>) -> Self::Future {
        let shared = self.0.clone();
        Box::pin(async move {
            let outcome = shared.issue(request).await;
            shared.metrics.count(&outcome);
            outcome.map(Response::new)
        })
    }
}
