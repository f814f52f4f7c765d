//! Scrapes of the sidecar by a collector, such as Prometheus. Envoy delegates them to the agent on the unix socket
//! ([`kermode_protocol::metrics`]). The response has the metrics of Envoy, then those of the agent.

use std::sync::Arc;

use anyhow::{Context as _, bail};
use futures::future::BoxFuture;
use http::{HeaderValue, StatusCode, header};
use kermode_protocol::metrics::{SCRAPE_PATH, SERVICE_NAME};
use kermode_protocol::rpc::GrpcService;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::sync::Semaphore;
use tonic::body::Body;

use crate::envoy::Admin;

/// Maximum number of concurrent scrapes. Two Prometheus servers may scrape at the same moment. Each scrape holds a page of
/// statistics in memory.
const MAX_CONCURRENT: usize = 2;
/// Prometheus' text format. Envoy's admin interface has no other one.
const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// Scrape service for Envoy; cheap to clone.
#[derive(Clone, Debug)]
pub struct MetricsService {
    admin: Admin,
    registry: Arc<Registry>,
    permits: Arc<Semaphore>,
}

// === impl MetricsService ===

impl MetricsService {
    /// Returns the service for the Envoy at `admin`. `registry` has the metrics of the agent.
    pub fn new(admin: Admin, registry: Arc<Registry>) -> Self {
        Self {
            admin,
            registry,
            permits: Arc::new(Semaphore::new(MAX_CONCURRENT)),
        }
    }

    async fn scrape(&self) -> anyhow::Result<String> {
        let Ok(_permit) = self.permits.try_acquire() else {
            bail!("the sidecar already responds to {MAX_CONCURRENT} scrapes");
        };
        let mut text = self.admin.prometheus_statistics().await?;
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        append_registry(&mut text, &self.registry)?;
        Ok(text)
    }
}

impl GrpcService for MetricsService {
    const NAME: &'static str = SERVICE_NAME;
    const METHOD_PATHS: &'static [&'static str] = &[SCRAPE_PATH];

    fn call(self, _: http::Request<Body>) -> BoxFuture<'static, http::Response<Body>> {
        Box::pin(async move {
            let result = self.scrape().await;
            let (status, body) = match result {
                Ok(text) => (StatusCode::OK, text),
                Err(error) => {
                    let error = format!("{error:#}");
                    tracing::debug!(error, "a scrape of the sidecar failed");
                    (StatusCode::SERVICE_UNAVAILABLE, error)
                }
            };
            let mut response = http::Response::new(Body::new(body));
            *response.status_mut() = status;
            response.headers_mut().insert(header::CONTENT_TYPE, CONTENT_TYPE);
            response
        })
    }
}

/// Appends the metrics of a registry. Leaves out the lines that only the OpenMetrics format has.
fn append_registry(text: &mut String, registry: &Registry) -> anyhow::Result<()> {
    let mut open_metrics = String::new();
    encode(&mut open_metrics, registry).context("the metrics of the agent cannot be encoded")?;
    for line in open_metrics.lines() {
        if line != "# EOF" && !line.starts_with("# UNIT ") {
            text.push_str(line);
            text.push('\n');
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use http_body_util::BodyExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::metrics::SidecarMetrics;

    /// Starts an admin interface that responds to one request. Returns it, and a task that returns the request.
    async fn start_admin(response: &'static str) -> (Admin, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = NonZeroU16::new(listener.local_addr().unwrap().port()).unwrap();
        let served = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 1024];
            let length = stream.read(&mut request).await.unwrap();
            stream.write_all(response.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&request[..length]).into_owned()
        });
        (Admin::new(port), served)
    }

    async fn scrape(admin: Admin) -> (StatusCode, String) {
        let metrics = SidecarMetrics::default();
        let mut registry = Registry::with_prefix("kuma_dp");
        metrics.register(&mut registry);
        let _connected = metrics.connected();
        let service = MetricsService::new(admin, Arc::new(registry));
        let response = service.call(http::Request::new(Body::empty())).await;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (parts.status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn scrape_has_the_used_metrics_of_envoy_and_those_of_the_agent() {
        let (admin, request) =
            start_admin("HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\nenvoy_server_live{}1").await;
        let (status, text) = scrape(admin).await;
        assert_eq!(status, StatusCode::OK, "{text}");
        let request = request.await.unwrap();
        assert!(
            request.starts_with("GET /stats/prometheus?usedonly HTTP/1.1"),
            "{request}"
        );
        assert!(
            text.starts_with("envoy_server_live{}1\n# HELP kuma_dp_"),
            "{text}"
        );
        assert!(
            text.lines()
                .any(|line| line == "kuma_dp_control_plane_connected 1"),
            "{text}"
        );
        assert!(!text.contains("# EOF") && !text.contains("# UNIT"), "{text}");
    }

    #[tokio::test]
    async fn scrape_fails_without_envoy() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = NonZeroU16::new(listener.local_addr().unwrap().port()).unwrap();
        drop(listener);
        let (status, text) = scrape(Admin::new(port)).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{text}");
    }
}
