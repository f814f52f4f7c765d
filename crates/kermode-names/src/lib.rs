//! gRPC service that resolves names that end in `.mesh`: the server side of [`kermode_protocol::names`]
//! (docs/design.md#mesh-dns-names).
//!
//! A sidecar asks when its application looks up such a name. Each response comes from the index, at a cost that does not
//! depend on the size of the mesh. The identities of callers are cached, so most lookups cost no TokenReview.

mod identities;
mod metrics;
mod resolve;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use kermode_authentication::{Authenticator, ProxyIdentity};
use kermode_k8s::shared_index::SharedIndex;
use kermode_limit::rate::{KeyedRateLimit, Rate};
use kermode_model::{MESH_DOMAIN, ObjectKey};
use kermode_protocol::names::{MAX_NAME_LENGTH, RESOLVE, ResolveRequest, ResolveResponse, SERVICE_NAME};
use kermode_protocol::rpc::GrpcService;
use parking_lot::Mutex;
use tonic::body::Body;
use tonic::server::{Grpc, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use self::identities::KnownIdentities;
use self::metrics::LookupResult;

pub use self::metrics::Metrics;
pub use self::resolve::{Resolution, resolve};

/// Maximum size of a request, in bytes. A request contains one name.
const MAX_REQUEST_SIZE: usize = 1024;
/// Maximum rate of requests of one proxy. `kuma-dp` caches responses, so even Prometheus, which looks up the names of a
/// thousand Pods every 15 seconds, stays below.
const PROXY_RATE: Rate = Rate {
    burst: 1000.0,
    per_second: 100.0,
};
/// Time for which the virtual IP of a service may be cached, as in Kuma. The address rarely changes, but the name
/// no longer exists after the last Pod of the service has ended.
const SERVICE_TTL: Duration = Duration::from_secs(30);
/// Time for which the IPs of a Pod may be cached. A Pod of a StatefulSet that is replaced has the same name and another IP.
const POD_TTL: Duration = Duration::from_secs(5);
/// Time for which it may be cached that a name does not exist. A new Pod or service resolves after at most this time.
const UNKNOWN_TTL: Duration = Duration::from_secs(5);

/// The gRPC service that resolves names. Cheap to clone.
#[derive(Clone)]
pub struct NameService {
    inner: Arc<ServiceInner>,
}

struct ServiceInner {
    authenticator: KnownIdentities,
    index: SharedIndex,
    /// Whether services have virtual IPs.
    has_virtual_ips: bool,
    limit: Mutex<KeyedRateLimit<ObjectKey>>,
    metrics: Metrics,
}

// === impl NameService ===

impl NameService {
    /// Creates the service, which resolves names against `index`. Without virtual IPs, only the names of the Pods of
    /// headless services exist.
    pub fn new(
        authenticator: impl Authenticator,
        index: SharedIndex,
        has_virtual_ips: bool,
        metrics: Metrics,
    ) -> Self {
        Self {
            inner: Arc::new(ServiceInner {
                authenticator: KnownIdentities::new(authenticator),
                index,
                has_virtual_ips,
                limit: Mutex::new(KeyedRateLimit::new(PROXY_RATE)),
                metrics,
            }),
        }
    }
}

impl fmt::Debug for NameService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NameService").finish_non_exhaustive()
    }
}

fn too_many_requests() -> Status {
    Status::resource_exhausted(format!(
        "the proxy looks up more than {} names a second",
        PROXY_RATE.per_second
    ))
}

// === impl ServiceInner ===

impl ServiceInner {
    /// Handles a request.
    async fn on_request(&self, request: Request<ResolveRequest>) -> Result<Resolution, Status> {
        let (metadata, _, request) = request.into_parts();
        let headers = metadata.into_headers();
        let identity = self.authenticator.authenticate(&headers).await?;
        self.authenticator.authorize(&identity)?;
        let is_within_rate = self.limit.lock().try_take(identity.key.clone(), Instant::now());
        if !is_within_rate {
            return Err(too_many_requests());
        }
        validate(&request.name)?;
        let resolution = self.resolve(&identity, &request.name)?;
        tracing::debug!(dataplane = %identity.key, name = ?request.name, ?resolution, "name looked up");
        Ok(resolution)
    }

    fn resolve(&self, identity: &ProxyIdentity, name: &str) -> Result<Resolution, Status> {
        let (dataplane, _) = self
            .index
            .dataplane_and_mesh(&identity.key)
            .ok_or_else(|| Status::not_found(format!("no Dataplane {} or no Mesh of it", identity.key)))?;
        let resolution = resolve(self.index.read().view(), &dataplane, name);
        let has_no_virtual_ip = !self.has_virtual_ips && resolution == Resolution::WithoutAddress;
        Ok(if has_no_virtual_ip {
            Resolution::Unknown
        } else {
            resolution
        })
    }
}

/// Checks the form of a name, so that each name has one form.
fn validate(name: &str) -> Result<(), Status> {
    let is_in_domain = name
        .strip_suffix(MESH_DOMAIN)
        .is_some_and(|rest| rest.ends_with('.'));
    let is_lower_case = !name.bytes().any(|byte| byte.is_ascii_uppercase());
    let is_valid = is_in_domain && is_lower_case && name.len() <= MAX_NAME_LENGTH;
    is_valid.then_some(()).ok_or_else(|| {
        Status::invalid_argument(format!(
            "name is not a name in lower case that ends in .{MESH_DOMAIN} and has at most {MAX_NAME_LENGTH} bytes"
        ))
    })
}

fn respond(resolution: Resolution) -> (LookupResult, Result<ResolveResponse, Status>) {
    let (result, addresses, ttl): (_, Vec<IpAddr>, _) = match resolution {
        Resolution::Service(address) => (LookupResult::Service, vec![address], SERVICE_TTL),
        Resolution::Pod(addresses) => (LookupResult::Pod, addresses, POD_TTL),
        Resolution::Unknown => (LookupResult::Unknown, Vec::new(), UNKNOWN_TTL),
        // Not the response for an unknown name, because the application should look the name up again. The code tells
        // `kuma-dp` that the control plane works, so lookups of other names continue.
        Resolution::WithoutAddress => {
            let status = Status::failed_precondition("the service of this name has no virtual IP yet");
            return (LookupResult::WithoutAddress, Err(status));
        }
    };
    let response = ResolveResponse {
        addresses: addresses.iter().map(ToString::to_string).collect(),
        ttl_seconds: u32::try_from(ttl.as_secs()).unwrap_or_default(),
    };
    (result, Ok(response))
}

// === gRPC ===

impl GrpcService for NameService {
    const NAME: &'static str = SERVICE_NAME;
    const METHOD_PATHS: &'static [&'static str] = &[RESOLVE];

    fn call(self, request: http::Request<Body>) -> BoxFuture<'static, http::Response<Body>> {
        Box::pin(async move {
            let codec = ProstCodec::<ResolveResponse, ResolveRequest>::default();
            let mut grpc = Grpc::new(codec).max_decoding_message_size(MAX_REQUEST_SIZE);
            grpc.unary(self, request).await
        })
    }
}

impl UnaryService<ResolveRequest> for NameService {
    type Response = ResolveResponse;
    type Future = BoxFuture<'static, Result<Response<ResolveResponse>, Status>>;

    fn call(&mut self, request: Request<ResolveRequest>) -> Self::Future {
        let inner = self.inner.clone();
        Box::pin(async move {
            let (result, response) = match inner.on_request(request).await {
                Ok(resolution) => respond(resolution),
                Err(status) => (LookupResult::Refused, Err(status)),
            };
            inner.metrics.count(result);
            response.map(Response::new)
        })
    }
}
