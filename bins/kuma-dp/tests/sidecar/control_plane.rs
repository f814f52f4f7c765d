//! A simulated control plane on loopback: TLS, authentication by token, minimal delta ADS, certificates.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use kermode_envoy::generate::OnDemandAddresses;
use kermode_envoy::{Resource, ResourceKind, generate};
use kermode_identity::{
    Authority, Entitlement, IssuedCertificate, ServingAuthority, Term, TrustBundle, WorkloadKey,
};
use kermode_model::{
    CertificateAuthority, Dataplane, Inbound, Mesh, MeshName, Metrics, Mtls, MtlsMode, ObjectKey,
    PermissionSet, Probes,
};
use kermode_protocol::ads::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, encode_resource};
use kermode_protocol::certificates::{IssueCertificateRequest, IssueCertificateResponse, SERVICE_NAME};
use kermode_protocol::closed_ports::{ReportClosedPortRequest, ReportClosedPortResponse};
use kermode_protocol::completion::{AwaitCompletionRequest, AwaitCompletionResponse};
use kermode_protocol::names::{ResolveRequest, ResolveResponse};
use kermode_protocol::removals::{self, WatchRemovalRequest, WatchRemovalResponse};
use kermode_runtime::{shutdown, tls};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, ServerStreamingService, StreamingService, UnaryService};
use tonic::service::Routes;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;
use tower::Service;

/// IP of the Pod. It is on loopback, but differs from the IP of Envoy's admin interface.
pub(crate) const POD_IP: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
/// Address of the name `web.mesh`.
pub(crate) const VIRTUAL_IP: Ipv4Addr = Ipv4Addr::new(240, 0, 0, 1);
/// Limit on connections to the control plane. No test opens so many.
const MAX_CONNECTIONS: usize = 100;
/// Name of the proxy under test.
pub(crate) const PROXY: &str = "web-0.demo";
/// SPIFFE ID of the proxy under test.
pub(crate) const SPIFFE_ID: &str = "spiffe://default/web_demo_svc_80";

/// Behaviour of the control plane; can be changed while it runs.
#[derive(Clone, Debug)]
pub(crate) struct Behaviour {
    /// The only token that is accepted.
    pub(crate) token: &'static str,
    /// Whether the mesh has mTLS in mode STRICT.
    pub(crate) has_mtls: bool,
    /// Lifetime of issued certificates. With `None`, requests for certificates are rejected, as in a mesh without mTLS.
    pub(crate) certificate_lifetime: Option<Duration>,
}

/// Running control plane. Dropping the value stops it.
pub(crate) struct ControlPlane {
    /// Address that `kuma-dp` connects to: the address of the forwarder.
    pub(crate) address: SocketAddr,
    /// CA certificate that verifies the control plane's own certificate.
    pub(crate) ca_pem: String,
    /// Address of the only inbound of the proxy under test.
    pub(crate) inbound: SocketAddr,
    state: Arc<ControlPlaneState>,
    /// Server to which connections are forwarded ([`start_forwarder`]). With `None`, the control plane is unreachable.
    forwarding: watch::Sender<Option<SocketAddr>>,
    server: Server,
}

/// Server with a CA of its own. Dropping the value stops it.
struct Server {
    address: SocketAddr,
    ca_pem: String,
    _trigger: shutdown::Trigger,
}

struct ControlPlaneState {
    behaviour: Mutex<Behaviour>,
    authority: Authority,
    dataplane: Dataplane,
    /// Tokens of accepted certificate requests, in order.
    accepted_tokens: Mutex<Vec<&'static str>>,
    /// Requests received on ADS streams, in order.
    received: Mutex<Vec<DeltaDiscoveryRequest>>,
    /// Reported closed ports, in order.
    closed_ports: Mutex<Vec<u32>>,
    /// Names that were to be resolved, in order.
    resolved_names: Mutex<Vec<String>>,
    /// Whether the application of the proxy under test has ended.
    has_application_ended: watch::Sender<bool>,
    /// Status of the removal of the endpoint under test, or the code with which watches of it fail.
    removal: watch::Sender<Result<WatchRemovalResponse, Code>>,
}

// === impl ControlPlane ===

impl ControlPlane {
    pub(crate) async fn start(behaviour: Behaviour) -> Self {
        Self::start_with_dataplane(behaviour, |_| {}).await
    }

    pub(crate) async fn start_with_probes(behaviour: Behaviour, probes: Probes) -> Self {
        Self::start_with_dataplane(behaviour, |dataplane| dataplane.probes = Some(probes)).await
    }

    /// Starts with an endpoint for collectors of metrics at `port`.
    pub(crate) async fn start_with_metrics(behaviour: Behaviour, port: u16) -> Self {
        let metrics = Metrics {
            port: Some(port),
            path: None,
        };
        Self::start_with_dataplane(behaviour, |dataplane| dataplane.metrics = Some(metrics)).await
    }

    async fn start_with_dataplane(behaviour: Behaviour, change: impl FnOnce(&mut Dataplane)) -> Self {
        let inbound = free_address(POD_IP).await;
        let mut dataplane = mk_dataplane(inbound);
        change(&mut dataplane);
        let state = Arc::new(ControlPlaneState {
            behaviour: Mutex::new(behaviour),
            authority: Authority::generate(&MeshName::new("default"), SystemTime::now()).unwrap(),
            dataplane,
            accepted_tokens: Mutex::default(),
            received: Mutex::default(),
            closed_ports: Mutex::default(),
            resolved_names: Mutex::default(),
            has_application_ended: watch::Sender::new(false),
            removal: watch::Sender::new(Err(Code::Unimplemented)),
        });
        let server = Server::start(state.clone()).await;
        let (forwarding, address) = start_forwarder(server.address).await;
        Self {
            address,
            ca_pem: server.ca_pem.clone(),
            inbound,
            state,
            forwarding,
            server,
        }
    }

    /// Closes all connections, and starts anew with another CA, like a control plane that has lost its CA. Returns the
    /// certificate of the new CA. [`Self::received`] then returns only requests to the new server.
    pub(crate) async fn restart_with_new_ca(&mut self) -> String {
        self.disconnect();
        self.server = Server::start(self.state.clone()).await;
        self.ca_pem.clone_from(&self.server.ca_pem);
        self.reconnect();
        self.ca_pem.clone()
    }

    /// Closes all connections and every new connection, like a control plane that was killed.
    pub(crate) fn disconnect(&self) {
        self.forwarding.send_replace(None);
    }

    /// Accepts connections after [`Self::disconnect`] and clears the received requests.
    pub(crate) fn reconnect(&self) {
        self.state.received.lock().unwrap().clear();
        self.forwarding.send_replace(Some(self.server.address));
    }

    /// Returns the requests received on ADS streams since the start or the last [`Self::reconnect`].
    pub(crate) fn received(&self) -> Vec<DeltaDiscoveryRequest> {
        self.state.received.lock().unwrap().clone()
    }

    /// Returns the closed ports that the proxy has reported.
    pub(crate) fn closed_ports(&self) -> Vec<u32> {
        self.state.closed_ports.lock().unwrap().clone()
    }

    /// Returns the names that the proxy has asked for.
    pub(crate) fn resolved_names(&self) -> Vec<String> {
        self.state.resolved_names.lock().unwrap().clone()
    }

    /// Reports the end of the application to the sidecar.
    pub(crate) fn end_application(&self) {
        self.state.has_application_ended.send_replace(true);
    }

    /// Reports this status of the removal of the endpoint under test, or lets the watches of it fail. At first, they fail
    /// as those of a control plane of an older version.
    pub(crate) fn report_removal(&self, status: Result<WatchRemovalResponse, Code>) {
        // The returned value is the earlier status.
        let _ = self.state.removal.send_replace(status);
    }

    pub(crate) fn change_behaviour(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.state.behaviour.lock().unwrap());
    }

    pub(crate) fn accepted_tokens(&self) -> Vec<&'static str> {
        self.state.accepted_tokens.lock().unwrap().clone()
    }

    /// Returns a certificate of the mesh for a client, its key, and the roots that verify the proxy under test. The
    /// client has the same identity as this proxy.
    pub(crate) fn mk_client_identity(&self) -> (IssuedCertificate, WorkloadKey, TrustBundle) {
        let key = WorkloadKey::generate().unwrap();
        let entitlement = Entitlement::of(&self.state.dataplane);
        let csr = key.csr_der().unwrap();
        let issued = self.state.authority.sign_csr(
            &csr,
            &entitlement,
            Term::of(Duration::from_hours(1)),
            SystemTime::now(),
        );
        (issued.unwrap(), key, self.state.roots())
    }
}

impl Server {
    async fn start(state: Arc<ControlPlaneState>) -> Self {
        let authority = ServingAuthority::generate(SystemTime::now()).unwrap();
        let term = Term::of(Duration::from_hours(1));
        let issued = authority.issue(&["127.0.0.1"], term, SystemTime::now()).unwrap();
        let key = issued.private_key().into();
        let certificate = tls::ServingCertificate::new(issued.certificate.chain, key).unwrap();
        let routes = Routes::new(Ads(state.clone()))
            .add_service(Issuance(state.clone()))
            .add_service(ClosedPorts(state.clone()))
            .add_service(Completion(state.clone()))
            .add_service(Removal(state.clone()))
            .add_service(Names(state));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (trigger, shutdown) = shutdown::channel();
        tokio::spawn(tls::serve(
            listener,
            certificate,
            routes.into_axum_router(),
            MAX_CONNECTIONS,
            shutdown,
        ));
        Self {
            address,
            ca_pem: authority.certificate_pem(),
            _trigger: trigger,
        }
    }
}

impl ControlPlaneState {
    fn behaviour(&self) -> Behaviour {
        self.behaviour.lock().unwrap().clone()
    }

    fn roots(&self) -> TrustBundle {
        TrustBundle::new([self.authority.certificate().clone()])
    }

    fn authenticate<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let expected = format!("Bearer {}", self.behaviour().token);
        let given = request
            .metadata()
            .get("authorization")
            .and_then(|value| value.to_str().ok());
        if given == Some(expected.as_str()) {
            Ok(())
        } else {
            Err(Status::unauthenticated("wrong token"))
        }
    }

    fn issue(&self, request: Request<IssueCertificateRequest>) -> Result<IssueCertificateResponse, Status> {
        self.authenticate(&request)?;
        let behaviour = self.behaviour();
        let request = request.into_inner();
        if (request.mesh.as_str(), request.name.as_str()) != ("default", PROXY) {
            return Err(Status::not_found(request.name));
        }
        let lifetime = behaviour
            .certificate_lifetime
            .ok_or_else(|| Status::failed_precondition("no mTLS"))?;
        let entitlement = Entitlement::of(&self.dataplane);
        let issued =
            self.authority
                .sign_csr(&request.csr, &entitlement, Term::of(lifetime), SystemTime::now());
        let issued = issued.map_err(|error| Status::invalid_argument(error.to_string()))?;
        self.accepted_tokens.lock().unwrap().push(behaviour.token);
        let (not_before, not_after) = issued.validity.to_unix();
        Ok(IssueCertificateResponse {
            chain_der: issued.chain.iter().map(|der| der.to_vec()).collect(),
            roots_der: self.roots().to_der(),
            not_before,
            not_after,
            ..IssueCertificateResponse::default()
        })
    }

    fn resources(&self) -> Vec<Resource> {
        let mut mesh = Mesh::new("default");
        mesh.mtls = self.behaviour().has_mtls.then(|| Mtls {
            backend: "ca-1".to_owned(),
            mode: MtlsMode::Strict,
            authority: CertificateAuthority::Builtin,
            certificate_lifetime: Duration::from_hours(24),
        });
        generate::proxy(
            &mesh,
            &self.dataplane,
            &PermissionSet::new(),
            OnDemandAddresses::default(),
        )
    }

    /// Returns the response to a subscription to one type: all resources of the type, or the resources that the request
    /// names.
    fn response(&self, request: &DeltaDiscoveryRequest, nonce: u32) -> DeltaDiscoveryResponse {
        let names = &request.resource_names_subscribe;
        let is_wildcard = names.is_empty() || names.iter().any(|name| name == "*");
        let kind = ResourceKind::from_type_url(&request.type_url);
        let resources = self.resources().into_iter().filter(|resource| {
            Some(resource.kind) == kind && (is_wildcard || names.iter().any(|name| **name == *resource.name))
        });
        DeltaDiscoveryResponse {
            resources: resources
                .map(|resource| {
                    encode_resource(
                        resource.kind.type_url(),
                        &resource.name,
                        &resource.version,
                        resource.body,
                    )
                })
                .collect(),
            type_url: request.type_url.clone(),
            nonce: nonce.to_string(),
            ..DeltaDiscoveryResponse::default()
        }
    }
}

fn mk_dataplane(inbound: SocketAddr) -> Dataplane {
    let tags = [
        ("kuma.io/service", "web_demo_svc_80"),
        ("kuma.io/protocol", "http"),
    ];
    let tags = tags
        .into_iter()
        .map(|(key, value)| (key.into(), value.into()))
        .collect();
    Dataplane {
        key: ObjectKey::from_proxy_name(PROXY).unwrap(),
        mesh: MeshName::new("default"),
        address: inbound.ip(),
        additional_addresses: Vec::new(),
        inbounds: vec![Inbound {
            port: inbound.port(),
            tags,
            ready: None,
        }],
        gateway: None,
        transparent_proxying: None,
        admin_port: None,
        probes: None,
        metrics: None,
    }
}

/// Starts to forward connections to `target`. Returns a switch that changes the target, and the address that clients
/// connect to. A change of the target closes all connections.
async fn start_forwarder(target: SocketAddr) -> (watch::Sender<Option<SocketAddr>>, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (forwarding, current_target) = watch::channel(Some(target));
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut current_target = current_target.clone();
            tokio::spawn(async move {
                let Some(target) = *current_target.borrow() else {
                    return;
                };
                let mut server = TcpStream::connect(target).await.unwrap();
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                    _ = current_target.wait_for(|current| *current != Some(target)) => {}
                }
            });
        }
    });
    (forwarding, address)
}

/// Returns an address whose port is free at the moment.
pub(crate) async fn free_address(ip: IpAddr) -> SocketAddr {
    TcpListener::bind((ip, 0)).await.unwrap().local_addr().unwrap()
}

// === gRPC services ===

/// Delta ADS: each subscription gets one response.
#[derive(Clone)]
struct Ads(Arc<ControlPlaneState>);

impl NamedService for Ads {
    const NAME: &'static str = kermode_protocol::ads::SERVICE_NAME;
}

impl StreamingService<DeltaDiscoveryRequest> for Ads {
    type Response = DeltaDiscoveryResponse;
    type ResponseStream = BoxStream<'static, Result<DeltaDiscoveryResponse, Status>>;
    type Future = BoxFuture<'static, Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<DeltaDiscoveryRequest>>) -> Self::Future {
        let state = self.0.clone();
        Box::pin(async move {
            state.authenticate(&request)?;
            let mut nonce = 0;
            let responses = request.into_inner().filter_map(move |request| {
                let response = request.map(|request| {
                    state.received.lock().unwrap().push(request.clone());
                    // ACKs and NACKs get no response.
                    request.response_nonce.is_empty().then(|| {
                        nonce += 1;
                        state.response(&request, nonce)
                    })
                });
                std::future::ready(response.transpose())
            });
            Ok(Response::new(responses.boxed()))
        })
    }
}

/// Issuance of certificates.
#[derive(Clone)]
struct Issuance(Arc<ControlPlaneState>);

impl NamedService for Issuance {
    const NAME: &'static str = SERVICE_NAME;
}

impl UnaryService<IssueCertificateRequest> for Issuance {
    type Response = IssueCertificateResponse;
    type Future = std::future::Ready<Result<Response<IssueCertificateResponse>, Status>>;

    fn call(&mut self, request: Request<IssueCertificateRequest>) -> Self::Future {
        std::future::ready(self.0.issue(request).map(Response::new))
    }
}

/// Reports of closed ports.
#[derive(Clone)]
struct ClosedPorts(Arc<ControlPlaneState>);

impl NamedService for ClosedPorts {
    const NAME: &'static str = kermode_protocol::closed_ports::SERVICE_NAME;
}

impl UnaryService<ReportClosedPortRequest> for ClosedPorts {
    type Response = ReportClosedPortResponse;
    type Future = std::future::Ready<Result<Response<ReportClosedPortResponse>, Status>>;

    fn call(&mut self, request: Request<ReportClosedPortRequest>) -> Self::Future {
        let authenticated = self.0.authenticate(&request);
        std::future::ready(authenticated.map(|()| {
            self.0
                .closed_ports
                .lock()
                .unwrap()
                .push(request.into_inner().port);
            Response::new(ReportClosedPortResponse { is_closed: true })
        }))
    }
}

/// End of the application.
#[derive(Clone)]
struct Completion(Arc<ControlPlaneState>);

impl NamedService for Completion {
    const NAME: &'static str = kermode_protocol::completion::SERVICE_NAME;
}

impl UnaryService<AwaitCompletionRequest> for Completion {
    type Response = AwaitCompletionResponse;
    type Future = BoxFuture<'static, Result<Response<AwaitCompletionResponse>, Status>>;

    fn call(&mut self, request: Request<AwaitCompletionRequest>) -> Self::Future {
        let state = self.0.clone();
        Box::pin(async move {
            state.authenticate(&request)?;
            let mut has_ended = state.has_application_ended.subscribe();
            let is_finished = has_ended.wait_for(|has_ended| *has_ended).await.is_ok();
            Ok(Response::new(AwaitCompletionResponse { is_finished }))
        })
    }
}

/// Removal of the endpoint under test.
#[derive(Clone)]
struct Removal(Arc<ControlPlaneState>);

impl NamedService for Removal {
    const NAME: &'static str = removals::SERVICE_NAME;
}

impl ServerStreamingService<WatchRemovalRequest> for Removal {
    type Response = WatchRemovalResponse;
    type ResponseStream = BoxStream<'static, Result<WatchRemovalResponse, Status>>;
    type Future = std::future::Ready<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<WatchRemovalRequest>) -> Self::Future {
        let authenticated = self.0.authenticate(&request);
        let statuses = WatchStream::new(self.0.removal.subscribe());
        let responses = statuses.map(|status| status.map_err(|code| Status::new(code, format!("{code:?}"))));
        std::future::ready(authenticated.map(|()| Response::new(responses.boxed())))
    }
}

/// Names of the mesh: `web.mesh` has the address [`VIRTUAL_IP`].
#[derive(Clone)]
struct Names(Arc<ControlPlaneState>);

impl NamedService for Names {
    const NAME: &'static str = kermode_protocol::names::SERVICE_NAME;
}

impl UnaryService<ResolveRequest> for Names {
    type Response = ResolveResponse;
    type Future = std::future::Ready<Result<Response<ResolveResponse>, Status>>;

    fn call(&mut self, request: Request<ResolveRequest>) -> Self::Future {
        let authenticated = self.0.authenticate(&request);
        std::future::ready(authenticated.map(|()| {
            let name = request.into_inner().name;
            let addresses = (name == "web.mesh").then(|| VIRTUAL_IP.to_string());
            self.0.resolved_names.lock().unwrap().push(name);
            Response::new(ResolveResponse {
                addresses: addresses.into_iter().collect(),
                ttl_seconds: 30,
            })
        }))
    }
}

/// Implements the HTTP service that the server expects. `$method` is the method of [`Grpc`] for the kind of RPC:
/// `unary`, `server_streaming` or `streaming`.
macro_rules! http_service {
    ($service:ty, $method:ident, $response:ty, $request:ty) => {
        impl Service<http::Request<Body>> for $service {
            type Response = http::Response<Body>;
            type Error = Infallible;
            type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

            fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
                Poll::Ready(Ok(()))
            }

            fn call(&mut self, request: http::Request<Body>) -> Self::Future {
                let service = self.clone();
                Box::pin(async move {
                    let mut grpc = Grpc::new(ProstCodec::<$response, $request>::default());
                    Ok(grpc.$method(service, request).await)
                })
            }
        }
    };
}

http_service!(Ads, streaming, DeltaDiscoveryResponse, DeltaDiscoveryRequest);
http_service!(
    ClosedPorts,
    unary,
    ReportClosedPortResponse,
    ReportClosedPortRequest
);
http_service!(Completion, unary, AwaitCompletionResponse, AwaitCompletionRequest);
http_service!(
    Removal,
    server_streaming,
    WatchRemovalResponse,
    WatchRemovalRequest
);
http_service!(Names, unary, ResolveResponse, ResolveRequest);
http_service!(Issuance, unary, IssueCertificateResponse, IssueCertificateRequest);
