//! The gRPC service that issues workload certificates, and streams to each proxy the roots of its mesh and the
//! fingerprint of its names.
//!
//! A caller must send a token that is bound to its Pod. The certificate contains exactly the names of the Pod's
//! Dataplane. Requests with another token, requests for other names, and requests above the rate limits are denied,
//! logged and counted. `kermode-identity` signs the certificates.

mod limits;
mod metrics;
mod roots;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use futures::future::BoxFuture;
use kermode_authorities::Authorities;
use kermode_identity::{Entitlement, IssuedCertificate, RotationPlan, SigningRequest, Trust};
use kermode_k8s::shared_index::SharedIndex;
use kermode_limit::KeyedLimit;
use kermode_limit::caller::CallerId;
use kermode_model::{Dataplane, Mesh, MeshName, Mtls, ObjectKey};
use kermode_protocol::certificates::{
    ISSUE_CERTIFICATE, IssueCertificateRequest, IssueCertificateResponse, SERVICE_NAME, WATCH_ROOTS,
};
use kermode_protocol::rpc::GrpcService;
use parking_lot::Mutex;
use tonic::body::Body;
use tonic::metadata::MetadataMap;
use tonic::server::{Grpc, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use self::limits::{IssuanceLimits, LimitedCall};
pub use self::metrics::Metrics;
use self::roots::{RootsCodec, WatchRoots, stream_limit};
use crate::authentication::{AuthenticationError, TokenAuthenticator};
use crate::denial::{Denial, DenialLog, DenialReason};

/// Size limit of a message, in bytes: twice the size limit of a signing request.
const MAX_MESSAGE_SIZE: usize = 16 * 1024;
/// Time limit of a call, from the head of the request to the complete response. For a stream, the time limit ends with
/// the head of the response.
const CALL_TIMEOUT: Duration = Duration::from_secs(12);
/// Maximum length of the claimed name in a log line, in bytes. Callers can claim names of any length.
const MAX_LOGGED_NAME_LENGTH: usize = 100;

/// The gRPC service that issues certificates. Cheap to clone.
#[derive(Clone)]
pub struct CertificateIssuance {
    state: Arc<IssuanceState>,
}

struct IssuanceState {
    authenticator: TokenAuthenticator,
    authorities: Authorities,
    index: SharedIndex,
    metrics: Metrics,
    rate_limits: Mutex<IssuanceLimits>,
    /// Log of denials, shared with the authenticator.
    denial_log: Arc<DenialLog>,
    /// Limit of open streams of roots.
    stream_limit: KeyedLimit<ObjectKey>,
    call_timeout: Duration,
}

// === impl CertificateIssuance ===

impl CertificateIssuance {
    /// Creates the service.
    pub fn new(
        authenticator: TokenAuthenticator,
        authorities: Authorities,
        index: SharedIndex,
        metrics: Metrics,
    ) -> Self {
        Self::with_timeout(authenticator, authorities, index, metrics, CALL_TIMEOUT)
    }

    fn with_timeout(
        authenticator: TokenAuthenticator,
        authorities: Authorities,
        index: SharedIndex,
        metrics: Metrics,
        call_timeout: Duration,
    ) -> Self {
        Self {
            state: Arc::new(IssuanceState {
                denial_log: authenticator.denials().clone(),
                authenticator,
                authorities,
                index,
                metrics,
                rate_limits: Mutex::new(IssuanceLimits::new(Instant::now())),
                stream_limit: stream_limit(),
                call_timeout,
            }),
        }
    }
}

impl IssuanceState {
    async fn issue(
        &self,
        request: Request<IssueCertificateRequest>,
    ) -> Result<IssueCertificateResponse, Denial> {
        let (metadata, _, request) = request.into_parts();
        let call = LimitedCall::IssueCertificate;
        let (proxy, caller) = self.authenticate(call, metadata, &request.name).await?;
        self.rate_limits.lock().take(caller, Instant::now())?;
        let (dataplane, mesh, mtls) = self.find_dataplane_and_mesh(&proxy, &request.mesh)?;
        let signing_request = SigningRequest::read(&request.csr)?;
        signing_request.check_bound_to(&proxy.proxy_name())?;
        let plan = self.rotation_plan(&mesh, &mtls).await?;
        let entitlement = Entitlement::of(&dataplane);
        let now = SystemTime::now();
        let lifetime = plan.lifetime(now, mtls.certificate_lifetime);
        let term = self.authorities.term(lifetime);
        let signer = plan.signer(now);
        let issued = signer.authority.sign(&signing_request, &entitlement, term, now)?;
        tracing::info!(dataplane = %proxy, mesh = %mesh.name, signer = signer.number, "certificate issued");
        self.authorities
            .expiries()
            .set_workload(&proxy, issued.validity.not_after, now);
        let trust = plan.trust(now);
        Ok(to_response(&issued, &trust, &entitlement))
    }

    /// Authenticates the caller as the proxy with this name (`<pod>.<namespace>`). Denies a caller whose calls of this
    /// kind have exceeded the rate limit, but does not count the call.
    async fn authenticate(
        &self,
        call: LimitedCall,
        metadata: MetadataMap,
        name: &str,
    ) -> Result<(ObjectKey, CallerId), Denial> {
        let headers = metadata.into_headers();
        let credentials = headers.get(http::header::AUTHORIZATION);
        let credentials = credentials.ok_or(AuthenticationError::NoToken)?.as_bytes();
        let caller = {
            let mut limits = self.rate_limits.lock();
            let caller = limits.caller_id(credentials);
            limits.check(call, caller, Instant::now())?;
            caller
        };
        let proxy = ObjectKey::from_proxy_name(name).ok_or(Denial::InvalidName)?;
        self.authenticator.authenticate_as(&headers, &proxy).await?;
        Ok((proxy, caller))
    }

    /// Returns the Dataplane of the proxy, its mesh, and the mTLS settings of the mesh.
    ///
    /// # Errors
    /// If the index has no Dataplane of the proxy, if the Dataplane does not belong to the requested mesh, or if the
    /// mesh has no mTLS.
    fn find_dataplane_and_mesh(
        &self,
        proxy: &ObjectKey,
        requested_mesh: &str,
    ) -> Result<(Arc<Dataplane>, Arc<Mesh>, Mtls), Denial> {
        let (dataplane, mesh) = self
            .index
            .dataplane_and_mesh(proxy)
            .filter(|(dataplane, _)| dataplane.mesh == MeshName::from(requested_mesh))
            .ok_or_else(|| Denial::DataplaneNotFound(proxy.clone()))?;
        let mtls = mesh.mtls.clone();
        let mtls = mtls.ok_or_else(|| Denial::NoMtls(mesh.name.to_string()))?;
        Ok((dataplane, mesh, mtls))
    }

    /// Returns the rotation plan of the mesh's CA: all generations with their schedules.
    async fn rotation_plan(&self, mesh: &Mesh, mtls: &Mtls) -> Result<Arc<RotationPlan>, Denial> {
        let plan = self.authorities.get(&mesh.name, &mtls.backend).await;
        plan.map_err(|error| {
            if let Some(suppressed) = self.denial_log.try_pass(DenialReason::AuthorityUnavailable) {
                tracing::error!(mesh = %mesh.name, suppressed, "certificate cannot be issued: {error:#}");
            }
            Denial::AuthorityUnavailable
        })
    }

    /// Logs the denial and returns the status of the response.
    fn deny(&self, denial: &Denial, claimed_name: Option<&str>) -> Status {
        let claimed_name = claimed_name.map(|name| &name[..name.floor_char_boundary(MAX_LOGGED_NAME_LENGTH)]);
        self.denial_log.log(denial, claimed_name);
        denial.status()
    }
}

fn to_response(
    certificate: &IssuedCertificate,
    trust: &Trust,
    entitlement: &Entitlement,
) -> IssueCertificateResponse {
    let (not_before, not_after) = certificate.validity.to_unix();
    IssueCertificateResponse {
        chain_der: certificate.chain.iter().map(|der| der.to_vec()).collect(),
        roots_der: trust.bundle.to_der(),
        not_before,
        not_after,
        roots_version: trust.version,
        signer: trust.signer,
        names: entitlement.fingerprint(),
    }
}

// === gRPC ===

impl GrpcService for CertificateIssuance {
    const NAME: &'static str = SERVICE_NAME;
    const METHOD_PATHS: &'static [&'static str] = &[ISSUE_CERTIFICATE, WATCH_ROOTS];

    fn call(self, request: http::Request<Body>) -> BoxFuture<'static, http::Response<Body>> {
        let state = self.state;
        Box::pin(async move {
            let response = tokio::time::timeout(state.call_timeout, respond(&state, request)).await;
            response.unwrap_or_else(|_| {
                let denial = Denial::TimedOut(state.call_timeout);
                state.metrics.count_denial(&denial);
                state.deny(&denial, None).into_http()
            })
        })
    }
}

/// Decodes the message and calls the method. If the message is too large or cannot be decoded, tonic responds itself.
async fn respond(state: &Arc<IssuanceState>, request: http::Request<Body>) -> http::Response<Body> {
    if request.uri().path() == WATCH_ROOTS {
        let mut grpc = Grpc::new(RootsCodec).max_decoding_message_size(MAX_MESSAGE_SIZE);
        return grpc.server_streaming(WatchRoots(state.clone()), request).await;
    }
    let is_decoded = Arc::new(AtomicBool::new(false));
    let method = IssueCertificate {
        state: state.clone(),
        is_decoded: is_decoded.clone(),
    };
    let mut grpc = Grpc::new(ProstCodec::default()).max_decoding_message_size(MAX_MESSAGE_SIZE);
    let response = grpc.unary(method, request).await;
    if !is_decoded.load(Ordering::Relaxed) {
        state.metrics.count_denial(&Denial::MessageUnreadable);
        // Only logs the denial, because tonic has already responded.
        state.deny(&Denial::MessageUnreadable, None);
    }
    response
}

/// Method `IssueCertificate` of the service.
struct IssueCertificate {
    state: Arc<IssuanceState>,
    /// Whether the message was decoded.
    is_decoded: Arc<AtomicBool>,
}

impl UnaryService<IssueCertificateRequest> for IssueCertificate {
    type Response = IssueCertificateResponse;
    type Future = BoxFuture<'static, Result<Response<IssueCertificateResponse>, Status>>;

    fn call(&mut self, request: Request<IssueCertificateRequest>) -> Self::Future {
        self.is_decoded.store(true, Ordering::Relaxed);
        let state = self.state.clone();
        Box::pin(async move {
            let claimed_name = request.get_ref().name.clone();
            match state.issue(request).await {
                Ok(issued) => {
                    state.metrics.count_issued();
                    Ok(Response::new(issued))
                }
                Err(denial) => {
                    state.metrics.count_denial(&denial);
                    Err(state.deny(&denial, Some(&claimed_name)))
                }
            }
        })
    }
}

#[cfg(test)]
pub(crate) mod tests;
