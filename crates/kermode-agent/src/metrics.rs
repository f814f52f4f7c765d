//! The agent's metrics: `/metrics` in plain HTTP on loopback, in the OpenMetrics text format. [`MetricsService`] gives the
//! same metrics, together with Envoy's, to collectors outside of the Pod.

mod scrape;
mod sidecar;

use std::convert::Infallible;
use std::future::{pending, ready};
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

pub use self::scrape::MetricsService;
pub(crate) use self::sidecar::ConnectedGuard;
pub use self::sidecar::SidecarMetrics;

/// Time after which a connection is closed, even during a request.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after a connection could not be accepted.
const ERROR_PAUSE: Duration = Duration::from_millis(50);

/// Serves `registry` on `port` of 127.0.0.1 until the returned future is dropped. Serves one connection at a time, so
/// clients cannot use much memory. If the port is in use, for example by the application, metrics are not served: the
/// Pod is more important than its metrics.
pub async fn serve(port: NonZeroU16, registry: Arc<Registry>) {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port.get()));
    match TcpListener::bind(address).await {
        Ok(listener) => serve_on(listener, &registry).await,
        Err(error) => {
            tracing::warn!(
                %address, %error,
                "metrics are not served: another process uses the port; select another one with \
                 KUMA_DNS_PROMETHEUS_PORT"
            );
            pending::<()>().await;
        }
    }
}

async fn serve_on(listener: TcpListener, registry: &Registry) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let served = timeout(CONNECTION_TIMEOUT, serve_connection(stream, registry)).await;
                if let Ok(Err(error)) = served {
                    tracing::debug!(%error, "a connection for metrics failed");
                }
            }
            Err(error) => {
                tracing::warn!(%error, "a connection for metrics could not be accepted");
                sleep(ERROR_PAUSE).await;
            }
        }
    }
}

async fn serve_connection(stream: TcpStream, registry: &Registry) -> hyper::Result<()> {
    let respond = |request: Request<Incoming>| ready(Ok::<_, Infallible>(response(&request, registry)));
    http1::Builder::new()
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service_fn(respond))
        .await
}

fn response<B>(request: &Request<B>, registry: &Registry) -> Response<Full<Bytes>> {
    let mut response = Response::default();
    if request.uri().path() != "/metrics" {
        *response.status_mut() = StatusCode::NOT_FOUND;
        return response;
    }
    if request.method() != Method::GET {
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        return response;
    }
    let mut text = String::new();
    if encode(&mut text, registry).is_err() {
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        return response;
    }
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static(content_type),
    );
    *response.body_mut() = Full::new(text.into());
    response
}

#[cfg(test)]
mod tests {
    use std::io;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn get(address: SocketAddr, path: &str) -> io::Result<String> {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut response = String::new();
        stream.read_to_string(&mut response).await?;
        Ok(response)
    }

    async fn start() -> SocketAddr {
        let mut registry = Registry::default();
        crate::dns::Metrics::default().register(&mut registry);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { serve_on(listener, &registry).await });
        address
    }

    #[tokio::test]
    async fn metrics_are_served_and_other_paths_are_not_found() {
        let address = start().await;
        let metrics = get(address, "/metrics").await.unwrap();
        assert!(
            metrics.starts_with("HTTP/1.1 200 OK") && metrics.contains("\ndns_cache_entries 0\n"),
            "{metrics}"
        );
        assert!(get(address, "/").await.unwrap().starts_with("HTTP/1.1 404"));
    }

    #[tokio::test(start_paused = true)]
    async fn connection_without_a_request_blocks_others_only_until_the_timeout() {
        let address = start().await;
        let _silent = TcpStream::connect(address).await.unwrap();
        assert!(
            get(address, "/metrics")
                .await
                .unwrap()
                .starts_with("HTTP/1.1 200 OK")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn port_in_use_does_not_end_the_component() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = NonZeroU16::new(listener.local_addr().unwrap().port()).unwrap();
        let serving = timeout(Duration::from_secs(1), serve(port, Arc::default()));
        assert!(serving.await.is_err(), "the component ended");
    }
}
