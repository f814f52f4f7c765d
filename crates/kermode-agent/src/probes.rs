//! TCP and gRPC probes of the application, which Envoy delegates to the agent on the unix socket
//! ([`kermode_protocol::probes`]).
//!
//! A probe connects to the application for each request, as the kubelet would. It ends when the kubelet gives up: Envoy
//! then resets the request.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use futures::future::BoxFuture;
use http::{HeaderMap, StatusCode, uri::PathAndQuery};
use kermode_model::percent_decode;
use kermode_protocol::probes::{ADDRESS_HEADER, GRPC_PATH, GRPC_SERVICE_HEADER, SERVICE_NAME, TCP_PATH};
use kermode_protocol::rpc::GrpcService;
use parking_lot::Mutex;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::transport::Endpoint;
use tonic_prost::ProstCodec;

use crate::connector;

/// Maximum number of concurrent probes. A Pod has about ten probes, but every client that reaches the Pod can request
/// them.
const MAX_CONCURRENT: usize = 100;
/// Timeout of a probe whose client does not give up. The kubelet's own timeout is rarely longer than some seconds.
const TIMEOUT: Duration = Duration::from_mins(5);
/// Method of the standard health service.
/// <https://github.com/grpc/grpc/blob/master/doc/health-checking.md>
const HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";
/// User agent of gRPC probes. Applications recognize the kubelet's probes by the prefix `kube-probe/`.
const USER_AGENT: &str = "kube-probe/kuma-dp";
/// Maximum size of a health response, in bytes. The response contains a single number.
const MAX_RESPONSE: usize = 64 * 1024;

/// Maximum number of failing probes that are remembered, so that only the first failure of each is logged. At the
/// maximum, failures of other probes are not logged.
const MAX_REMEMBERED: usize = 256;

/// Probe service for Envoy; cheap to clone.
#[derive(Clone, Debug)]
pub struct ProbeService {
    permits: Arc<Semaphore>,
    /// Probes that failed when they were last executed: path, address and gRPC service.
    failing: Arc<Mutex<BTreeSet<[String; 3]>>>,
}

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct HealthCheckResponse {
    #[prost(enumeration = "ServingStatus", tag = "1")]
    status: i32,
}

/// `grpc.health.v1.HealthCheckResponse.ServingStatus`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
enum ServingStatus {
    Unknown = 0,
    Serving = 1,
    NotServing = 2,
    ServiceUnknown = 3,
}

// === impl ProbeService ===

impl Default for ProbeService {
    fn default() -> Self {
        Self {
            permits: Arc::new(Semaphore::new(MAX_CONCURRENT)),
            failing: Arc::default(),
        }
    }
}

impl ProbeService {
    /// Executes one probe. The error is the reason for its failure.
    async fn probe(&self, path: &str, headers: &HeaderMap) -> anyhow::Result<()> {
        let Ok(_permit) = self.permits.try_acquire() else {
            bail!("the sidecar already executes {MAX_CONCURRENT} probes");
        };
        let address: SocketAddr = header_text(headers, ADDRESS_HEADER)?
            .parse()
            .context(ADDRESS_HEADER)?;
        let probe = async {
            match path {
                TCP_PATH => connect(address)
                    .await
                    .map(|_| ())
                    .with_context(|| format!("cannot connect to {address}")),
                GRPC_PATH => {
                    let service = percent_decode(header_text(headers, GRPC_SERVICE_HEADER)?)
                        .with_context(|| format!("{GRPC_SERVICE_HEADER} is not percent-encoded"))?;
                    check_health(address, service).await
                }
                other => bail!("unknown probe {other}"),
            }
        };
        match timeout(TIMEOUT, probe).await {
            Ok(result) => result,
            Err(_) => bail!("no result within {TIMEOUT:?}"),
        }
    }

    /// Logs the first failure of a probe with its reason, which the kubelet's Event lacks. Also logs the first success
    /// after failures.
    fn log(&self, path: &str, headers: &HeaderMap, result: &anyhow::Result<()>) {
        let header = |name| header_text(headers, name).unwrap_or_default().to_owned();
        let probe = [
            path.to_owned(),
            header(ADDRESS_HEADER),
            header(GRPC_SERVICE_HEADER),
        ];
        let address = probe[1].clone();
        let mut failing = self.failing.lock();
        match result {
            Ok(()) => {
                if failing.remove(&probe) {
                    tracing::info!(path, address, "a probe of the application succeeds again");
                }
            }
            Err(error) => {
                if failing.len() < MAX_REMEMBERED && failing.insert(probe) {
                    let error = format!("{error:#}");
                    tracing::info!(path, address, error, "a probe of the application fails");
                }
            }
        }
    }
}

impl GrpcService for ProbeService {
    const NAME: &'static str = SERVICE_NAME;
    const METHOD_PATHS: &'static [&'static str] = &[TCP_PATH, GRPC_PATH];

    fn call(self, request: http::Request<Body>) -> BoxFuture<'static, http::Response<Body>> {
        Box::pin(async move {
            let (path, headers) = (request.uri().path(), request.headers());
            let result = self.probe(path, headers).await;
            self.log(path, headers, &result);
            let (status, body) = match result {
                Ok(()) => (StatusCode::OK, "ok".to_owned()),
                Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error:#}")),
            };
            let mut response = http::Response::new(Body::new(body));
            *response.status_mut() = status;
            response
        })
    }
}

fn header_text<'a>(headers: &'a HeaderMap, name: &str) -> anyhow::Result<&'a str> {
    let value = headers
        .get(name)
        .with_context(|| format!("the request has no {name}"))?;
    value.to_str().with_context(|| format!("{name} is not ASCII"))
}

/// Connects from the address that the redirection rules exempt. Any other connection of the agent to the Pod's own IP
/// would reach Envoy instead of the application.
async fn connect(address: SocketAddr) -> std::io::Result<TcpStream> {
    let (socket, exempt) = match address {
        SocketAddr::V4(_) => (
            TcpSocket::new_v4()?,
            SocketAddr::from((Ipv4Addr::new(127, 0, 0, 6), 0)),
        ),
        SocketAddr::V6(_) => {
            let exempt = Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6);
            (TcpSocket::new_v6()?, SocketAddr::from((exempt, 0)))
        }
    };
    if let Err(error) = socket.bind(exempt) {
        // The IPv6 address exists only in Pods whose IPv6 traffic is redirected.
        tracing::debug!(%exempt, %error, "the source address of a probe is not available");
    }
    socket.connect(address).await
}

/// Requests the health of a gRPC service in plain text.
async fn check_health(address: SocketAddr, service: String) -> anyhow::Result<()> {
    let stream = connect(address)
        .await
        .with_context(|| format!("cannot connect to {address}"))?;
    // A probe is one connection, so the channel's attempts to connect again fail.
    let connector = connector::of_stream(stream, "the application closed the connection");
    let channel = Endpoint::from_shared(format!("http://{address}"))?
        .user_agent(USER_AGENT)?
        .connect_with_connector(connector)
        .await
        .with_context(|| format!("{address} does not respond with HTTP/2"))?;
    let mut client = Grpc::new(channel).max_decoding_message_size(MAX_RESPONSE);
    client
        .ready()
        .await
        .with_context(|| format!("{address} closed the connection"))?;
    let codec = ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
    let request = tonic::Request::new(HealthCheckRequest {
        service: service.clone(),
    });
    let path = PathAndQuery::from_static(HEALTH_CHECK);
    let response = client.unary(request, path, codec).await.map_err(|status| {
        anyhow::anyhow!("{address} responded with {}: {}", status.code(), status.message())
    })?;
    let status = response.into_inner().status();
    ensure!(
        status == ServingStatus::Serving,
        "{address} reports {status:?} for service \"{service}\""
    );
    Ok(())
}

#[cfg(test)]
mod tests;
