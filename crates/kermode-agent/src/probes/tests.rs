//! Probes of applications on loopback.

use http::HeaderValue;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::server::UnaryService;
use tonic::{Code, Request, Response, Status};

use super::*;

/// Health service: the whole server and `up/a b%` are serving, `down` is not, and other services are unknown.
#[derive(Clone)]
struct Health;

impl UnaryService<HealthCheckRequest> for Health {
    type Response = HealthCheckResponse;
    type Future = BoxFuture<'static, Result<Response<HealthCheckResponse>, Status>>;

    fn call(&mut self, request: Request<HealthCheckRequest>) -> Self::Future {
        let result = match request.into_inner().service.as_str() {
            "" | "up/a b%" => Ok(ServingStatus::Serving),
            "down" => Ok(ServingStatus::NotServing),
            _ => Err(Status::new(Code::NotFound, "unknown service")),
        };
        let response = result.map(|status| {
            Response::new(HealthCheckResponse {
                status: status.into(),
            })
        });
        Box::pin(std::future::ready(response))
    }
}

impl GrpcService for Health {
    const NAME: &'static str = "grpc.health.v1.Health";
    const METHOD_PATHS: &'static [&'static str] = &[HEALTH_CHECK];

    fn call(self, request: http::Request<Body>) -> BoxFuture<'static, http::Response<Body>> {
        Box::pin(async move {
            assert_eq!(
                request.headers()["user-agent"]
                    .to_str()
                    .unwrap()
                    .find("kube-probe/"),
                Some(0)
            );
            let codec = ProstCodec::<HealthCheckResponse, HealthCheckRequest>::default();
            tonic::server::Grpc::new(codec).unary(self, request).await
        })
    }
}

async fn listen(ip: &str) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((ip, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

async fn start_health_server() -> SocketAddr {
    let (listener, address) = listen("127.0.0.1").await;
    let server = tonic::transport::Server::builder().add_service(kermode_protocol::rpc::Rpc(Health));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    address
}

/// Returns an address at which nothing listens.
async fn closed_address() -> SocketAddr {
    listen("127.0.0.1").await.1
}

async fn call(service: &ProbeService, path: &'static str, headers: &[(&'static str, String)]) -> StatusCode {
    let mut request = http::Request::new(Body::empty());
    *request.uri_mut() = path.parse().unwrap();
    for (name, value) in headers {
        request
            .headers_mut()
            .insert(*name, HeaderValue::from_str(value).unwrap());
    }
    GrpcService::call(service.clone(), request).await.status()
}

async fn probe_tcp(address: SocketAddr) -> StatusCode {
    let headers = [(ADDRESS_HEADER, address.to_string())];
    call(&ProbeService::default(), TCP_PATH, &headers).await
}

async fn probe_grpc(address: SocketAddr, service: &str) -> StatusCode {
    let headers = [
        (ADDRESS_HEADER, address.to_string()),
        (GRPC_SERVICE_HEADER, service.to_owned()),
    ];
    call(&ProbeService::default(), GRPC_PATH, &headers).await
}

#[tokio::test]
async fn tcp_probe_succeeds_only_if_the_application_listens() {
    let (listener, address) = listen("127.0.0.1").await;
    assert_eq!(probe_tcp(address).await, StatusCode::OK);
    let (_, peer) = listener.accept().await.unwrap();
    // Connections from other addresses to the Pod's IP would be redirected to Envoy.
    assert_eq!(peer.ip().to_string(), "127.0.0.6");
    assert_eq!(
        probe_tcp(closed_address().await).await,
        StatusCode::SERVICE_UNAVAILABLE
    );
}

#[tokio::test]
async fn tcp_probe_over_ipv6_needs_no_exempt_address() {
    let (_listener, address) = listen("::1").await;
    assert_eq!(probe_tcp(address).await, StatusCode::OK);
}

#[tokio::test]
async fn grpc_probe_succeeds_only_if_the_service_is_serving() {
    let address = start_health_server().await;
    assert_eq!(probe_grpc(address, "").await, StatusCode::OK);
    assert_eq!(probe_grpc(address, "up%2Fa%20b%25").await, StatusCode::OK);
    assert_eq!(probe_grpc(address, "down").await, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(
        probe_grpc(address, "unknown").await,
        StatusCode::SERVICE_UNAVAILABLE
    );
    assert_eq!(
        probe_grpc(closed_address().await, "").await,
        StatusCode::SERVICE_UNAVAILABLE
    );
}

#[tokio::test]
async fn grpc_probe_of_an_application_with_another_protocol_fails() {
    let (listener, address) = listen("127.0.0.1").await;
    let application = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream
            .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .await
            .unwrap();
    };
    let (status, ()) = tokio::join!(probe_grpc(address, ""), application);
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn probe_above_the_limit_fails_at_once() {
    let service = ProbeService::default();
    let (_listener, address) = listen("127.0.0.1").await;
    let headers = [(ADDRESS_HEADER, address.to_string())];
    let permits = service.permits.clone().acquire_many_owned(100).await.unwrap();
    assert_eq!(
        call(&service, TCP_PATH, &headers).await,
        StatusCode::SERVICE_UNAVAILABLE
    );
    drop(permits);
    assert_eq!(call(&service, TCP_PATH, &headers).await, StatusCode::OK);
}

#[tokio::test]
async fn request_without_a_valid_address_fails() {
    let service = ProbeService::default();
    assert_eq!(
        call(&service, TCP_PATH, &[]).await,
        StatusCode::SERVICE_UNAVAILABLE
    );
    let headers = [(ADDRESS_HEADER, "somewhere:80".to_owned())];
    assert_eq!(
        call(&service, TCP_PATH, &headers).await,
        StatusCode::SERVICE_UNAVAILABLE
    );
}
