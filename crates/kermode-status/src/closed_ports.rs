//! gRPC service by which sidecars report closed ports: the server side of [`kermode_protocol::closed_ports`]. Writes an
//! Event about the Pod (docs/design.md#strict-covers-every-port).
//!
//! The replica that receives a report writes the Event, whether or not it is the leader: each report reaches only one
//! replica. A Pod can send any port number, so the text of the Event contains only the number and names that the control
//! plane knows. The rates of reports and of Events are limited.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use futures::future::BoxFuture;
use kermode_authentication::{Authenticator, ProxyIdentity};
use kermode_k8s::controller::recorder::{EventRecorder, Subject};
use kermode_k8s::shared_index::SharedIndex;
use kermode_limit::caller::{CallerId, CallerIds};
use kermode_limit::rate::{KeyedRateLimit, Rate};
use kermode_model::annotation::EXCLUDE_INBOUND_PORTS;
use kermode_model::{Dataplane, Mesh};
use kermode_protocol::closed_ports::{
    REPORT_CLOSED_PORT, ReportClosedPortRequest, ReportClosedPortResponse, SERVICE_NAME,
};
use kermode_protocol::rpc::GrpcService;
use parking_lot::Mutex;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tonic::body::Body;
use tonic::server::{Grpc, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

/// Maximum size of a request, in bytes. A request contains one number.
const MAX_REQUEST_SIZE: usize = 1024;
/// Maximum rate of reports of one proxy. A sidecar reports at most 10 ports at once and then one per minute; its
/// container may restart.
const PROXY_RATE: Rate = Rate {
    burst: 30.0,
    per_second: 2.0 / 60.0,
};
/// Maximum rate of Events about the Pods of one namespace. The burst is sufficient for the Pods of many workloads.
const EVENT_RATE: Rate = Rate {
    burst: 20.0,
    per_second: 10.0 / 60.0,
};
/// Reason of the Events.
const REASON: &str = "PlainTextConnectionClosed";

/// The gRPC service that receives reports of closed ports. Cheap to clone.
#[derive(Clone)]
pub struct ClosedPortService {
    inner: Arc<ServiceInner>,
}

struct ServiceInner {
    authenticator: Box<dyn Authenticator>,
    index: SharedIndex,
    events: EventRecorder,
    limits: Mutex<Limits>,
    metrics: ClosedPortMetrics,
}

/// Rates of reports, by caller, and of Events, by namespace.
struct Limits {
    caller_ids: CallerIds,
    reports: KeyedRateLimit<CallerId>,
    events: KeyedRateLimit<Arc<str>>,
}

/// Metric of the reports. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct ClosedPortMetrics {
    reports: Family<ReportLabels, Counter>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReportLabels {
    result: ReportResult,
}

/// Result of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
enum ReportResult {
    /// An Event was queued.
    Event,
    /// The Event was suppressed, because the namespace has too many.
    Suppressed,
    /// The port is not closed, so the sidecar did not have its current configuration yet.
    NotClosed,
    /// The caller was denied, or the request was invalid or above the rate of the proxy.
    Refused,
}

/// Text of an Event.
struct ClosedPort<'a> {
    port: u16,
    mesh: &'a Mesh,
}

// === impl ClosedPortMetrics ===

impl ClosedPortMetrics {
    /// Registers the metric.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Reports of sidecars about closed connections to ports without an inbound, by result";
        registry.register("closed_port_reports", help, self.reports.clone());
    }

    fn count(&self, result: ReportResult) {
        self.reports.get_or_create(&ReportLabels { result }).inc();
    }
}

// === impl ClosedPort ===

impl fmt::Display for ClosedPort<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { port, mesh } = self;
        let name = &mesh.name;
        write!(
            f,
            "The sidecar closed a connection to port {port}: no Service gives the Pod an inbound at this port, and "
        )?;
        // In every other mode, passthrough is on unless the Mesh turns it off.
        if mesh.inbound_passthrough.is_some() {
            write!(f, "Mesh {name} has networking.inbound.passthrough: false. ")?;
        } else {
            write!(f, "the mTLS mode of Mesh {name} is STRICT. ")?;
        }
        write!(
            f,
            "Name the port in a Service, or list it in annotation \"{EXCLUDE_INBOUND_PORTS}\" of the Pod, or set \
             networking.inbound.passthrough of the Mesh to true."
        )
    }
}

// === impl ClosedPortService ===

impl ClosedPortService {
    /// Creates the service. It checks reports against `index`, and writes Events with `events`.
    pub fn new(
        authenticator: impl Authenticator,
        index: SharedIndex,
        events: EventRecorder,
        metrics: ClosedPortMetrics,
    ) -> Self {
        let limits = Limits {
            caller_ids: CallerIds::default(),
            reports: KeyedRateLimit::new(PROXY_RATE),
            events: KeyedRateLimit::new(EVENT_RATE),
        };
        Self {
            inner: Arc::new(ServiceInner {
                authenticator: Box::new(authenticator),
                index,
                events,
                limits: Mutex::new(limits),
                metrics,
            }),
        }
    }
}

impl fmt::Debug for ClosedPortService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClosedPortService").finish_non_exhaustive()
    }
}

// === impl Limits ===

impl Limits {
    /// Checks the rate of a caller before its token is reviewed. Unauthenticated callers always pass, because only
    /// reports of authenticated callers are counted ([`Self::take`]).
    fn check(&mut self, headers: &http::HeaderMap) -> Result<CallerId, Status> {
        let credentials = headers.get(http::header::AUTHORIZATION);
        let caller = self
            .caller_ids
            .of(credentials.map(http::HeaderValue::as_bytes).unwrap_or_default());
        let is_within_rate = self.reports.has_token(&caller, Instant::now());
        is_within_rate.then_some(caller).ok_or_else(too_many_reports)
    }

    /// Counts a report of an authenticated caller.
    fn take(&mut self, caller: CallerId) -> Result<(), Status> {
        let is_within_rate = self.reports.try_take(caller, Instant::now());
        is_within_rate.then_some(()).ok_or_else(too_many_reports)
    }
}

fn too_many_reports() -> Status {
    Status::resource_exhausted("the proxy reports too many closed ports")
}

impl ServiceInner {
    /// Handles a report.
    async fn on_report(&self, request: Request<ReportClosedPortRequest>) -> Result<ReportResult, Status> {
        let (metadata, _, request) = request.into_parts();
        let headers = metadata.into_headers();
        let caller = self.limits.lock().check(&headers)?;
        let identity = self.authenticator.authenticate(&headers).await?;
        self.authenticator.authorize(&identity)?;
        self.limits.lock().take(caller)?;
        let port = u16::try_from(request.port).ok().filter(|port| *port > 0);
        let port = port.ok_or_else(|| Status::invalid_argument("port is not between 1 and 65535"))?;
        let (dataplane, mesh) = self
            .index
            .dataplane_and_mesh(&identity.key)
            .ok_or_else(|| Status::not_found(format!("no Dataplane {} or no Mesh of it", identity.key)))?;
        if !is_closed(port, &dataplane, &mesh) {
            return Ok(ReportResult::NotClosed);
        }
        tracing::info!(dataplane = %identity.key, mesh = %mesh.name, port, "the sidecar closes connections to a port without an inbound");
        Ok(self.write_event(identity, &ClosedPort { port, mesh: &mesh }))
    }

    /// Queues an Event if the namespace has not too many.
    fn write_event(&self, identity: ProxyIdentity, closed_port: &ClosedPort<'_>) -> ReportResult {
        let namespace = identity.key.namespace.clone();
        if !self.limits.lock().events.try_take(namespace, Instant::now()) {
            return ReportResult::Suppressed;
        }
        let pod = Subject {
            kind: "Pod",
            key: identity.key,
            uid: identity.uid.to_string(),
        };
        // Without an action of its own, the Event of a second port would be aggregated into the Event of the first one.
        let action = format!("ClosePort{}", closed_port.port);
        self.events
            .warning_with_action(&pod, &action, REASON, &closed_port.to_string());
        ReportResult::Event
    }
}

/// Whether Envoy has to close connections to a port of the Pod.
fn is_closed(port: u16, dataplane: &Dataplane, mesh: &Mesh) -> bool {
    let is_inbound = dataplane.inbounds.iter().any(|inbound| inbound.port == port);
    !is_inbound && dataplane.transparent_proxying.is_some() && !mesh.passes_through_inbound()
}

// === gRPC ===

impl GrpcService for ClosedPortService {
    const NAME: &'static str = SERVICE_NAME;
    const METHOD_PATHS: &'static [&'static str] = &[REPORT_CLOSED_PORT];

    fn call(self, request: http::Request<Body>) -> BoxFuture<'static, http::Response<Body>> {
        Box::pin(async move {
            let codec = ProstCodec::<ReportClosedPortResponse, ReportClosedPortRequest>::default();
            let mut grpc = Grpc::new(codec).max_decoding_message_size(MAX_REQUEST_SIZE);
            grpc.unary(self, request).await
        })
    }
}

impl UnaryService<ReportClosedPortRequest> for ClosedPortService {
    type Response = ReportClosedPortResponse;
    type Future = BoxFuture<'static, Result<Response<ReportClosedPortResponse>, Status>>;

    fn call(&mut self, request: Request<ReportClosedPortRequest>) -> Self::Future {
        let inner = self.inner.clone();
        Box::pin(async move {
            let result = inner.on_report(request).await;
            inner
                .metrics
                .count(result.as_ref().copied().unwrap_or(ReportResult::Refused));
            result.map(|result| {
                let is_closed = result != ReportResult::NotClosed;
                Response::new(ReportClosedPortResponse { is_closed })
            })
        })
    }
}

#[cfg(test)]
mod tests;
