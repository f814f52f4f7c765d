//! Scrapes of the sidecar by a collector, such as Prometheus. Envoy delegates them to the agent on the unix socket
//! ([`kermode_protocol::metrics`]). The response has the metrics of Envoy, then those of the agent.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{StreamExt as _, stream};
use http::{HeaderValue, StatusCode, header};
use http_body_util::{BodyDataStream, StreamBody};
use hyper::body::Frame;
use kermode_limit::rate::Window;
use kermode_protocol::metrics::{SCRAPE_PATH, SERVICE_NAME};
use kermode_protocol::rpc::GrpcService;
use parking_lot::Mutex;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::body::Body;

use crate::envoy::Admin;

/// Maximum number of concurrent scrapes. Two Prometheus servers may scrape at the same moment. Each scrape has Envoy render
/// a page of statistics, and Envoy holds the page in memory until the client has read it.
const MAX_CONCURRENT: usize = 2;
/// Response to a scrape beyond [`MAX_CONCURRENT`].
const TOO_MANY: &str = "the sidecar already responds to two scrapes\n";
/// Response to a scrape that failed. Every client that reaches the Pod can scrape, so only the log has the cause.
const FAILED: &str = "the metrics of Envoy cannot be read; see the log of kuma-sidecar\n";
/// Period in which at most one failed scrape is logged.
const WARNING_PERIOD: Duration = Duration::from_mins(1);
/// Prometheus' text format. Envoy's admin interface has no other one.
const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// Scrape service for Envoy; cheap to clone.
#[derive(Clone, Debug)]
pub struct MetricsService {
    admin: Admin,
    registry: Arc<Registry>,
    permits: Arc<Semaphore>,
    /// Limit on log lines about failed scrapes.
    warnings: Arc<Mutex<Window>>,
}

// === impl MetricsService ===

impl MetricsService {
    /// Returns the service for the Envoy at `admin`. `registry` has the metrics of the agent.
    pub fn new(admin: Admin, registry: Arc<Registry>) -> Self {
        Self {
            admin,
            registry,
            permits: Arc::new(Semaphore::new(MAX_CONCURRENT)),
            warnings: Arc::new(Mutex::new(Window::new(1, WARNING_PERIOD))),
        }
    }

    async fn scrape(&self) -> http::Response<Body> {
        let Ok(permit) = self.permits.clone().try_acquire_owned() else {
            return response(StatusCode::SERVICE_UNAVAILABLE, Body::new(TOO_MANY.to_owned()));
        };
        match self.page(permit).await {
            Ok(page) => response(StatusCode::OK, page),
            Err(error) => {
                self.warn(&error);
                response(StatusCode::SERVICE_UNAVAILABLE, Body::new(FAILED.to_owned()))
            }
        }
    }

    /// Returns the metrics of Envoy, then those of the agent. The page keeps `permit` until it has been read or is dropped.
    async fn page(&self, permit: OwnedSemaphorePermit) -> anyhow::Result<Body> {
        let of_envoy = self.admin.prometheus_statistics().await?;
        // The format allows empty lines, so a line break is right after a complete line, too.
        let mut of_agent = String::from("\n");
        append_registry(&mut of_agent, &self.registry)?;
        let frames = BodyDataStream::new(of_envoy)
            .chain(stream::iter([Ok(Bytes::from(of_agent))]))
            .map(move |data| {
                let _held_until_the_stream_is_dropped = &permit;
                data.map(Frame::data)
            });
        Ok(Body::new(StreamBody::new(frames)))
    }

    fn warn(&self, error: &anyhow::Error) {
        if let Some(suppressed) = self.warnings.lock().try_pass(Instant::now()) {
            let error = format!("{error:#}");
            tracing::warn!(error, suppressed, "a scrape of the sidecar failed");
        }
    }
}

impl GrpcService for MetricsService {
    const NAME: &'static str = SERVICE_NAME;
    const METHOD_PATHS: &'static [&'static str] = &[SCRAPE_PATH];

    fn call(self, _: http::Request<Body>) -> BoxFuture<'static, http::Response<Body>> {
        Box::pin(async move { self.scrape().await })
    }
}

fn response(status: StatusCode, body: Body) -> http::Response<Body> {
    let mut response = http::Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, CONTENT_TYPE);
    response
}

/// Appends the metrics of a registry. Leaves out the lines that only the OpenMetrics format has. In Prometheus' text format,
/// `HELP` and `TYPE` of a counter have the name of its samples, with `_total`
/// (<https://prometheus.io/docs/instrumenting/exposition_formats/>).
fn append_registry(text: &mut String, registry: &Registry) -> anyhow::Result<()> {
    let mut open_metrics = String::new();
    encode(&mut open_metrics, registry).context("the metrics of the agent cannot be encoded")?;
    let counters: HashSet<&str> = open_metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .collect();
    for line in open_metrics.lines() {
        if line == "# EOF" || line.starts_with("# UNIT ") {
            continue;
        }
        match counter_in(line, &counters) {
            Some((keyword, name, rest)) => text.extend(["# ", keyword, " ", name, "_total ", rest]),
            None => text.push_str(line),
        }
        text.push('\n');
    }
    Ok(())
}

/// Splits the line `HELP` or `TYPE` of one of `counters` into keyword, name and rest.
fn counter_in<'a>(line: &'a str, counters: &HashSet<&str>) -> Option<(&'a str, &'a str, &'a str)> {
    let (keyword, rest) = line.strip_prefix("# ")?.split_once(' ')?;
    let (name, rest) = rest.split_once(' ')?;
    counters.contains(name).then_some((keyword, name, rest))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use http_body_util::BodyExt as _;
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::metrics::gauge::Gauge;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;

    use super::*;
    use crate::metrics::SidecarMetrics;

    const PAGE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\nenvoy_server_live{}1";

    /// Starts an admin interface. Returns it, and its requests.
    async fn start_admin(response: &'static str) -> (Admin, mpsc::UnboundedReceiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = NonZeroU16::new(listener.local_addr().unwrap().port()).unwrap();
        let (sender, requests) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = vec![0; 1024];
                let length = stream.read(&mut request).await.unwrap();
                stream.write_all(response.as_bytes()).await.unwrap();
                let request = String::from_utf8_lossy(&request[..length]).into_owned();
                // The test may have dropped the receiver.
                let _ = sender.send(request);
            }
        });
        (Admin::new(port), requests)
    }

    fn mk_service(admin: Admin) -> MetricsService {
        let metrics = SidecarMetrics::default();
        let mut registry = Registry::with_prefix("kuma_dp");
        metrics.register(&mut registry);
        MetricsService::new(admin, Arc::new(registry))
    }

    async fn call(service: &MetricsService) -> http::Response<Body> {
        service.clone().call(http::Request::new(Body::empty())).await
    }

    async fn text(response: http::Response<Body>) -> String {
        let body = response.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(body.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn scrape_has_the_used_metrics_of_envoy_and_those_of_the_agent() {
        let (admin, mut requests) = start_admin(PAGE).await;
        let response = call(&mk_service(admin)).await;
        assert_eq!(response.status(), StatusCode::OK);
        let text = text(response).await;
        let request = requests.recv().await.unwrap();
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
                .any(|line| line == "kuma_dp_control_plane_connected 0"),
            "{text}"
        );
        assert!(!text.contains("# EOF") && !text.contains("# UNIT"), "{text}");
    }

    #[tokio::test]
    async fn third_scrape_fails_while_two_pages_are_unread() {
        let (admin, _requests) = start_admin(PAGE).await;
        let service = mk_service(admin);
        let (first, second) = (call(&service).await, call(&service).await);
        assert_eq!(
            (first.status(), second.status()),
            (StatusCode::OK, StatusCode::OK)
        );
        let third = call(&service).await;
        assert_eq!(third.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(text(third).await, TOO_MANY);
        text(first).await;
        assert_eq!(call(&service).await.status(), StatusCode::OK);
    }

    #[tokio::test]
    async fn page_that_envoy_does_not_complete_is_not_a_complete_response() {
        let (admin, _requests) = start_admin("HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\nenvoy_").await;
        let response = call(&mk_service(admin)).await;
        assert!(response.into_body().collect().await.is_err());
    }

    #[tokio::test]
    async fn failed_scrape_does_not_tell_the_client_the_cause() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = NonZeroU16::new(listener.local_addr().unwrap().port()).unwrap();
        drop(listener);
        let response = call(&mk_service(Admin::new(port))).await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(text(response).await, FAILED);
    }

    #[test]
    fn help_and_type_of_a_counter_have_the_name_of_its_samples() {
        let mut registry = Registry::default();
        registry.register("dns_responses", "Responses", Counter::<u64>::default());
        registry.register("dns_cache_entries", "Entries", Gauge::<i64>::default());
        let mut text = String::new();
        append_registry(&mut text, &registry).unwrap();
        let expected = "# HELP dns_responses_total Responses.\n# TYPE dns_responses_total counter\ndns_responses_total 0\n\
                        # HELP dns_cache_entries Entries.\n# TYPE dns_cache_entries gauge\ndns_cache_entries 0\n";
        assert_eq!(text, expected);
    }
}
