//! Issues workload certificates and tells proxies of their mesh's roots: a thin gRPC shell around `kermode-identity`.
//!
//! A proxy is given exactly the names of its own Dataplane, and only with a token that is bound to that Pod. Whatever
//! else is asked for is refused, logged and counted; so is more than a proxy needs.

mod limits;
mod metrics;
mod refusal;
mod roots;

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use futures::future::BoxFuture;
use kermode_authorities::Authorities;
use kermode_identity::{Entitlement, IssuedCertificate, SigningRequest, Succession, Trust};
use kermode_k8s::shared_index::SharedIndex;
use kermode_model::{Dataplane, Mesh, MeshName, Mtls, ObjectKey};
use kermode_protocol::certificates::{
    ISSUE_CERTIFICATE, IssueCertificateRequest, IssueCertificateResponse, SERVICE_NAME, WATCH_ROOTS,
};
use tonic::body::Body;
use tonic::metadata::MetadataMap;
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use self::limits::{Caller, Limits};
pub use self::metrics::Metrics;
use self::refusal::{Gate, Refusal};
use self::roots::{Open, RootsCodec, WatchRoots};
use crate::authentication::{Authentication, Refused};

/// The largest message: a signing request is at most half of that, and names take the rest.
const MAX_MESSAGE: usize = 16 * 1024;
/// From the head of a request to the answer, or to the first message of a stream.
const PATIENCE: Duration = Duration::from_secs(12);
/// How much of a claimed name is written into the log, in characters.
const LONGEST_CLAIM: usize = 100;

/// The service; cheap to clone.
#[derive(Clone)]
pub struct CertificateIssuance {
    shared: Arc<Shared>,
}

struct Shared {
    authentication: Authentication,
    authorities: Authorities,
    index: SharedIndex,
    metrics: Metrics,
    limits: Mutex<Limits>,
    gate: Gate,
    open: Arc<Open>,
    patience: Duration,
}

// === impl CertificateIssuance ===

impl CertificateIssuance {
    /// The service on top of its parts.
    pub fn new(
        authentication: Authentication,
        authorities: Authorities,
        index: SharedIndex,
        metrics: Metrics,
    ) -> Self {
        Self::within(authentication, authorities, index, metrics, PATIENCE)
    }

    fn within(
        authentication: Authentication,
        authorities: Authorities,
        index: SharedIndex,
        metrics: Metrics,
        patience: Duration,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                authentication,
                authorities,
                index,
                metrics,
                limits: Mutex::new(Limits::new(Instant::now())),
                gate: Gate::default(),
                open: Arc::default(),
                patience,
            }),
        }
    }
}

impl Shared {
    async fn issue(
        &self,
        request: Request<IssueCertificateRequest>,
    ) -> Result<IssueCertificateResponse, Refusal> {
        let (metadata, _, request) = request.into_parts();
        let (proxy, caller) = self.authenticate(metadata, &request.name).await?;
        self.limits().take(caller, Instant::now())?;
        let (dataplane, mesh, mtls) = self.mesh_of(&proxy, &request.mesh)?;
        let signing = SigningRequest::read(&request.csr_der)?;
        signing.check_made_by(&proxy.proxy_name())?;
        let succession = self.authority(&mesh, &mtls).await?;
        let (now, entitlement) = (SystemTime::now(), Entitlement::of(&dataplane));
        let lifetime = succession.lifetime(now, mtls.certificate_lifetime);
        let signer = succession.signer(now);
        let issued = signer.authority.sign(&signing, &entitlement, lifetime, now)?;
        tracing::info!(dataplane = %proxy, mesh = %mesh.name, signer = signer.number, "certificate issued");
        let trust = succession.trust(now);
        Ok(response(&issued, &trust))
    }

    /// Which proxy calls.
    async fn authenticate(&self, metadata: MetadataMap, name: &str) -> Result<(ObjectKey, Caller), Refusal> {
        let headers = metadata.into_headers();
        let token = headers.get(http::header::AUTHORIZATION);
        let token = token.ok_or(Refused::NoToken)?.as_bytes();
        let caller = self.limits().caller(token);
        self.limits().check(caller, Instant::now())?;
        let proxy = ObjectKey::from_proxy_name(name).ok_or(Refusal::Name)?;
        self.authentication.check(&headers, &proxy).await?;
        Ok((proxy, caller))
    }

    /// The proxy's Dataplane, and its mesh as long as that has mTLS.
    fn mesh_of(&self, proxy: &ObjectKey, mesh: &str) -> Result<(Arc<Dataplane>, Arc<Mesh>, Mtls), Refusal> {
        let (dataplane, mesh) = self
            .index
            .dataplane_and_mesh(proxy)
            .filter(|(dataplane, _)| dataplane.mesh == MeshName::from(mesh))
            .ok_or_else(|| Refusal::NotThere(proxy.clone()))?;
        let mtls = mesh.mtls.clone();
        let mtls = mtls.ok_or_else(|| Refusal::NoMtls(mesh.name.to_string()))?;
        Ok((dataplane, mesh, mtls))
    }

    async fn authority(&self, mesh: &Mesh, mtls: &Mtls) -> Result<Arc<Succession>, Refusal> {
        let found = self.authorities.get(&mesh.name, &mtls.backend).await;
        found.map_err(|error| {
            tracing::error!(mesh = %mesh.name, "certificate cannot be issued: {error:#}");
            Refusal::Authority
        })
    }

    fn refuse(&self, refusal: &Refusal, claimed: &str) -> Status {
        let claimed: String = claimed.chars().take(LONGEST_CLAIM).collect();
        self.gate.log(refusal, &claimed);
        refusal.status()
    }

    fn limits(&self) -> MutexGuard<'_, Limits> {
        self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn response(certificate: &IssuedCertificate, trust: &Trust) -> IssueCertificateResponse {
    let (not_before, not_after) = certificate.validity.to_unix();
    IssueCertificateResponse {
        chain_der: certificate.chain.iter().map(|der| der.to_vec()).collect(),
        roots_der: trust.bundle.to_der(),
        not_before,
        not_after,
        roots_version: trust.version,
        signer: trust.signer,
    }
}

// === gRPC ===

impl NamedService for CertificateIssuance {
    const NAME: &'static str = SERVICE_NAME;
}

impl tower::Service<http::Request<Body>> for CertificateIssuance {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let shared = self.shared.clone();
        Box::pin(async move {
            let answered = tokio::time::timeout(shared.patience, answer(&shared, request)).await;
            Ok(answered.unwrap_or_else(|_| {
                let refusal = Refusal::TimedOut(shared.patience);
                shared.metrics.refused(&refusal);
                shared.refuse(&refusal, "").into_http()
            }))
        })
    }
}

/// Reads the message and calls the method. A message that is too large or makes no sense never reaches it.
async fn answer(shared: &Arc<Shared>, request: http::Request<Body>) -> http::Response<Body> {
    match request.uri().path() {
        ISSUE_CERTIFICATE => {
            let reached = Arc::new(AtomicBool::new(false));
            let method = Issue {
                shared: shared.clone(),
                reached: reached.clone(),
            };
            let mut grpc = Grpc::new(ProstCodec::default()).max_decoding_message_size(MAX_MESSAGE);
            let response = grpc.unary(method, request).await;
            if !reached.load(Ordering::Relaxed) {
                shared.metrics.refused(&Refusal::Unreadable);
                shared.refuse(&Refusal::Unreadable, "");
            }
            response
        }
        WATCH_ROOTS => {
            let mut grpc = Grpc::new(RootsCodec).max_decoding_message_size(MAX_MESSAGE);
            grpc.server_streaming(WatchRoots(shared.clone()), request).await
        }
        _ => Status::unimplemented("unknown method").into_http(),
    }
}

struct Issue {
    shared: Arc<Shared>,
    reached: Arc<AtomicBool>,
}

impl UnaryService<IssueCertificateRequest> for Issue {
    type Response = IssueCertificateResponse;
    type Future = BoxFuture<'static, Result<Response<IssueCertificateResponse>, Status>>;

    fn call(&mut self, request: Request<IssueCertificateRequest>) -> Self::Future {
        self.reached.store(true, Ordering::Relaxed);
        let shared = self.shared.clone();
        Box::pin(async move {
            let name = request.get_ref().name.clone();
            match shared.issue(request).await {
                Ok(issued) => {
                    shared.metrics.issued();
                    Ok(Response::new(issued))
                }
                Err(refusal) => {
                    shared.metrics.refused(&refusal);
                    Err(shared.refuse(&refusal, &name))
                }
            }
        })
    }
}

#[cfg(test)]
mod tests;
