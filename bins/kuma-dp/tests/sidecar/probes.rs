//! Probes of an application, sent as the kubelet does: in plain text to the Pod's IP, in a mesh with strict mTLS.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::future::BoxFuture;
use kermode_identity::{ServingAuthority, Term};
use kermode_model::{ApplicationProbe, ProbeProtocol, Probes};
use kermode_protocol::rpc::{GrpcService, Rpc};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::body::Body;
use tonic::server::{Grpc, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use crate::MTLS;
use crate::agent::Agent;
use crate::control_plane::{ControlPlane, POD_IP, free_address};

/// Request of the standard gRPC health service.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// Response of the standard gRPC health service.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct HealthCheckResponse {
    /// 1 means SERVING, and 2 means NOT_SERVING.
    #[prost(int32, tag = "1")]
    status: i32,
}

/// Health service: every service is serving except `shop/50% sick`. The path of a probe percent-encodes this name.
#[derive(Clone)]
struct Health;

impl UnaryService<HealthCheckRequest> for Health {
    type Response = HealthCheckResponse;
    type Future = BoxFuture<'static, Result<Response<HealthCheckResponse>, Status>>;

    fn call(&mut self, request: Request<HealthCheckRequest>) -> Self::Future {
        let status = if request.into_inner().service == "shop/50% sick" {
            2
        } else {
            1
        };
        Box::pin(std::future::ready(Ok(Response::new(HealthCheckResponse {
            status,
        }))))
    }
}

impl GrpcService for Health {
    const NAME: &'static str = "grpc.health.v1.Health";
    const METHOD_PATHS: &'static [&'static str] = &["/grpc.health.v1.Health/Check"];

    fn call(self, request: http::Request<Body>) -> BoxFuture<'static, http::Response<Body>> {
        Box::pin(async move {
            let codec = ProstCodec::<HealthCheckResponse, HealthCheckRequest>::default();
            Grpc::new(codec).unary(self, request).await
        })
    }
}

async fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind((POD_IP, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// Serves one HTTP/1.1 request: `/healthz?deep=1` succeeds, `/old` redirects, and all other paths and queries fail. The
/// body of the response is the head of the request.
async fn serve_http(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let status = match head.split(' ').nth(1).unwrap() {
        "/healthz?deep=1" => "200 OK",
        "/old" => "302 Found\r\nlocation: /new",
        _ => "500 Internal Server Error",
    };
    let response = format!(
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{head}",
        head.len()
    );
    // The client may have closed the connection.
    let _ = stream.write_all(response.as_bytes()).await;
    let _ = stream.shutdown().await;
}

async fn start_http() -> u16 {
    let (listener, port) = listen().await;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve_http(stream));
        }
    });
    port
}

/// Starts a server whose certificate is expired, for another name, and from an unknown CA. The kubelet accepts such a
/// certificate.
async fn start_https() -> u16 {
    let (listener, port) = listen().await;
    let long_ago = SystemTime::now() - Duration::from_hours(24 * 300);
    let authority = ServingAuthority::generate(long_ago).unwrap();
    let issued = authority
        .issue(&["other.example"], Term::of(Duration::from_hours(1)), long_ago)
        .unwrap();
    let key = issued.private_key().into();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(issued.certificate.chain, key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    serve_http(stream).await;
                }
            });
        }
    });
    port
}

async fn start_grpc() -> u16 {
    let (listener, port) = listen().await;
    let server = tonic::transport::Server::builder().add_service(Rpc(Health));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    port
}

/// Sends a probe as the kubelet does. Returns the status and the whole response.
pub(crate) async fn probe(port: u16, path: &str, headers: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect((POD_IP, port)).await.ok()?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: {POD_IP}:{port}\r\nuser-agent: kube-probe/1.34\r\n{headers}connection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut response = String::new();
    stream.read_to_string(&mut response).await.ok()?;
    Some((response.split(' ').nth(1)?.parse().ok()?, response))
}

#[tokio::test]
async fn probes_of_every_protocol_have_the_result_of_the_application_in_strict_mode() {
    let (http, https, grpc) = (start_http().await, start_https().await, start_grpc().await);
    let closed_port = free_address(POD_IP).await.port();
    let port = free_address(POD_IP).await.port();
    let application_probe = |protocol, port, path: &str| ApplicationProbe::new(protocol, port, path);
    let probes_and_statuses = [
        (
            application_probe(ProbeProtocol::Http, http, "/healthz?deep=1"),
            200,
        ),
        (application_probe(ProbeProtocol::Http, http, "/fail"), 500),
        (application_probe(ProbeProtocol::Http, http, "/old"), 302),
        (application_probe(ProbeProtocol::Http, closed_port, "/"), 503),
        (
            application_probe(ProbeProtocol::Https, https, "/healthz?deep=1"),
            200,
        ),
        (application_probe(ProbeProtocol::Https, https, "/fail"), 500),
        (application_probe(ProbeProtocol::Https, http, "/healthz"), 503),
        (application_probe(ProbeProtocol::Tcp, http, ""), 200),
        (application_probe(ProbeProtocol::Tcp, closed_port, ""), 503),
        (application_probe(ProbeProtocol::Grpc, grpc, ""), 200),
        (application_probe(ProbeProtocol::Grpc, grpc, "shop/50% well"), 200),
        (application_probe(ProbeProtocol::Grpc, grpc, "shop/50% sick"), 503),
        (application_probe(ProbeProtocol::Grpc, http, ""), 503),
        (application_probe(ProbeProtocol::Grpc, closed_port, ""), 503),
    ];
    let (endpoints, expected_statuses): (Vec<_>, Vec<_>) = probes_and_statuses.into_iter().unzip();
    let paths: Vec<_> = endpoints.iter().map(|endpoint| endpoint.path.clone()).collect();
    let control_plane = ControlPlane::start_with_probes(MTLS, Probes { port, endpoints }).await;
    let agent = Agent::start(&control_plane, "first-token", &[]).await;
    agent.wait_for_ready_status(200).await;
    for (path, expected) in paths.iter().zip(expected_statuses) {
        let (status, response) = probe(port, path, "").await.expect("a response");
        assert_eq!(status, expected, "{path}: {response}\n{}", agent.log());
        // The kubelet would follow a redirection to a path that the listener for probes does not have.
        assert!(!response.contains("location:"), "{path}: {response}");
    }

    // Headers of the probe reach the application.
    let (_, response) = probe(port, &paths[0], "x-probe: yes\r\n")
        .await
        .expect("a response");
    assert!(response.contains("x-probe: yes"), "{response}");
    // The header by which Envoy names the probed address has no effect in a request of a client.
    let headers = format!("x-kermode-probe-address: {POD_IP}:{http}\r\n");
    let (status, _) = probe(port, &format!("/tcp/{closed_port}"), &headers)
        .await
        .expect("a response");
    assert_eq!(status, 503);
    // Only the configured paths are probed.
    for path in [
        format!("/tcp/{grpc}"),
        format!("/{http}/"),
        format!("/{http}/healthz/../fail"),
    ] {
        let (status, _) = probe(port, &path, "").await.expect("a response");
        assert_eq!(status, 404, "{path}");
    }
    assert!(
        agent.log().contains("a probe of the application fails"),
        "{}",
        agent.log()
    );
}
