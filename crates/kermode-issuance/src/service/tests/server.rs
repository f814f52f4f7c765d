//! Runs the issuance service with TLS on loopback. A mock API server stores Secrets and reviews tokens.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use kermode_authorities::Authorities;
use kermode_authorities::testing::ApiServer;
use kermode_identity::{ServingAuthority, Term, WorkloadKey};
use kermode_k8s::index::Index;
use kermode_k8s::shared_index::SharedIndex;
use kermode_model::{CertificateAuthority, Mesh, Mtls, MtlsMode};
use kermode_protocol::certificates::{
    ISSUE_CERTIFICATE, IssueCertificateRequest, IssueCertificateResponse, RootsUpdate, WATCH_ROOTS,
    WatchRootsRequest,
};
use kermode_protocol::rpc::Rpc;
use kermode_runtime::shutdown::{self, Trigger};
use kermode_runtime::tls;
use prometheus_client::registry::Registry;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tonic::client::Grpc;
use tonic::service::Routes;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::authentication::TokenAuthenticator;
use crate::authentication::tests::{mk_audiences, mk_pod_of, review};
use crate::service::{CALL_TIMEOUT, CertificateIssuance, Metrics};

/// The service and its dependencies. The index contains the Pods `shop/web` (UID 1) and `shop/other` (UID 2).
pub(super) struct Server {
    pub(super) index: SharedIndex,
    pub(super) channel: Channel,
    pub(super) authorities: Authorities,
    registry: Registry,
    _stop: Trigger,
}

/// Time by which the validity of an issued certificate starts before the issuance. The value differs from the default,
/// so the tests show that the setting is used.
pub(super) const CLOCK_TOLERANCE: Duration = Duration::from_mins(4);

pub(super) fn mk_mesh() -> Mesh {
    let mut mesh = Mesh::new("default");
    mesh.mtls = Some(Mtls {
        backend: "ca-1".to_owned(),
        mode: MtlsMode::Strict,
        authority: CertificateAuthority::Builtin,
        certificate_lifetime: Duration::from_hours(1),
    });
    mesh
}

/// Makes the certificate request of the named proxy, with a valid signing request for the key.
pub(super) fn mk_request(key: &WorkloadKey, name: &str) -> IssueCertificateRequest {
    IssueCertificateRequest {
        mesh: "default".to_owned(),
        name: name.to_owned(),
        csr: key.csr_der_of(name).expect("a signing request"),
    }
}

impl Server {
    pub(super) async fn start() -> Self {
        Self::start_with_call_timeout(CALL_TIMEOUT).await
    }

    pub(super) async fn start_with_call_timeout(call_timeout: Duration) -> Self {
        let api_server = ApiServer::default();
        let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            let api_server = api_server.clone();
            async move {
                if request.uri().path().ends_with("/tokenreviews") {
                    review(request).await
                } else {
                    api_server.handle(request).await
                }
            }
        });
        let client = kube::Client::new(service, "default");
        let index = SharedIndex::new(Index::default());
        index.write().apply_mesh(mk_mesh());
        index.write().apply_pod(mk_pod_of("web", "10.0.0.1", "1"));
        index.write().apply_pod(mk_pod_of("other", "10.0.0.2", "2"));
        let authenticator = TokenAuthenticator::new(client.clone(), index.clone(), mk_audiences());
        let authorities = Authorities::new(client, "kong-mesh-system".to_owned(), CLOCK_TOLERANCE);
        let (metrics, mut registry) = (Metrics::default(), Registry::default());
        metrics.register(&mut registry);
        let issuance = CertificateIssuance::with_timeout(
            authenticator,
            authorities.clone(),
            index.clone(),
            metrics,
            call_timeout,
        );
        let (channel, stop) = serve(issuance).await;
        Self {
            index,
            channel,
            authorities,
            registry,
            _stop: stop,
        }
    }

    pub(super) async fn issue(
        &self,
        token: &str,
        request: IssueCertificateRequest,
    ) -> Result<IssueCertificateResponse, Status> {
        let mut client = Grpc::new(self.channel.clone());
        client.ready().await.expect("a connection");
        let codec = ProstCodec::<IssueCertificateRequest, IssueCertificateResponse>::default();
        let path = PathAndQuery::from_static(ISSUE_CERTIFICATE);
        let issued = client.unary(with_token(token, request), path, codec).await;
        issued.map(tonic::Response::into_inner)
    }

    pub(super) async fn watch_roots(
        &self,
        token: &str,
        name: &str,
    ) -> Result<Streaming<RootsUpdate>, Status> {
        let mut client = Grpc::new(self.channel.clone());
        client.ready().await.expect("a connection");
        let codec = ProstCodec::<WatchRootsRequest, RootsUpdate>::default();
        let path = PathAndQuery::from_static(WATCH_ROOTS);
        let request = WatchRootsRequest {
            mesh: "default".to_owned(),
            name: name.to_owned(),
        };
        let stream = client
            .server_streaming(with_token(token, request), path, codec)
            .await;
        stream.map(tonic::Response::into_inner)
    }

    /// Returns the number of issued certificates.
    pub(super) fn issued_count(&self) -> u64 {
        self.metric("certificate_requests_total{result=\"Issued\"}")
    }

    /// Returns the number of certificate requests that were denied for this reason.
    pub(super) fn denial_count(&self, reason: &str) -> u64 {
        self.metric(&format!("certificate_refusals_total{{reason=\"{reason}\"}}"))
    }

    /// Returns the value of the metric with the name and labels; 0 if the metric does not exist.
    pub(super) fn metric(&self, name_and_labels: &str) -> u64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).expect("metrics");
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(name_and_labels)?.strip_prefix(' '));
        value.map_or(0, |value| value.parse().expect("a number"))
    }
}

fn with_token<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    if !token.is_empty() {
        let value = format!("Bearer {token}").parse().expect("a header value");
        request.metadata_mut().insert("authorization", value);
    }
    request
}

/// Serves the issuance service. Returns a channel to the server, and the trigger of the server's shutdown.
async fn serve(issuance: CertificateIssuance) -> (Channel, Trigger) {
    let authority = ServingAuthority::generate(SystemTime::now()).expect("a CA");
    let issued = authority.issue(
        &["localhost"],
        Term::of(Duration::from_hours(1)),
        SystemTime::now(),
    );
    let issued = issued.expect("a certificate");
    let certificate =
        tls::ServingCertificate::new(issued.certificate.chain.clone(), issued.private_key().into());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (stop, shutdown) = shutdown::channel();
    let router = Routes::new(Rpc(issuance)).into_axum_router();
    let certificate = certificate.expect("a valid certificate");
    tokio::spawn(tls::serve(listener, certificate, router, 1000, shutdown));

    let bundle = kermode_identity::TrustBundle::from_pem(&authority.certificate_pem()).expect("a root");
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(bundle.roots().iter().cloned());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut client_config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("supported versions of TLS")
        .with_root_certificates(store)
        .with_no_client_auth();
    client_config.alpn_protocols = vec![b"h2".to_vec()];
    let tls = TlsConnector::from(Arc::new(client_config));
    let connector = tower::service_fn(move |_: http::Uri| {
        let tls = tls.clone();
        async move {
            let stream = TcpStream::connect(address).await?;
            let name = ServerName::try_from("localhost").expect("a name");
            std::io::Result::Ok(TokioIo::new(tls.connect(name, stream).await?))
        }
    });
    let endpoint = Endpoint::from_static("https://localhost");
    (endpoint.connect_with_connector_lazy(connector), stop)
}
