//! Client of Envoy's admin interface, and the HTTP client that it shares with `kuma-dp wait`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::shutdown::Activity;

/// Limit on a response body, in bytes. A filtered statistics page is far smaller.
const MAX_RESPONSE: usize = 1024 * 1024;
/// Path and query of all statistics that ever changed, in Prometheus' text format.
const PROMETHEUS_STATISTICS: &str = "/stats/prometheus?usedonly";
/// Timeout of one request; for the page of statistics, until its first byte. Envoy responds within milliseconds unless its main thread is stuck.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Path and query of the gauges of connections of all listeners, and of connections and requests of all HTTP filters, as
/// far as they ever changed. In a mesh with thousands of services, the gauges of all listeners would exceed
/// [`MAX_RESPONSE`].
const ACTIVITY_GAUGES: &str =
    "/stats?usedonly&filter=^(listener%7Chttp)%5C..*%5C.downstream_(cx%7Crq)_active$";

/// Admin interface on 127.0.0.1.
#[derive(Clone, Copy, Debug)]
pub struct Admin {
    address: SocketAddr,
}

impl Admin {
    /// Returns the admin interface at `port`.
    pub fn new(port: NonZeroU16) -> Self {
        Self {
            address: (Ipv4Addr::LOCALHOST, port.get()).into(),
        }
    }

    /// Makes Envoy's `/ready` fail and its connections close after their current request
    /// (`docs/reference/sidecar.md#shutdown`).
    ///
    /// # Errors
    /// Envoy cannot be reached, or does not respond with status 200.
    pub async fn fail_healthcheck(self) -> anyhow::Result<()> {
        let (status, _) = self.request(Method::POST, "/healthcheck/fail").await?;
        ensure!(
            status == StatusCode::OK,
            "Envoy responded with {status} to /healthcheck/fail"
        );
        Ok(())
    }

    /// Returns the activity of the listeners, without that of the admin interface.
    pub(crate) async fn activity(self) -> anyhow::Result<Activity> {
        let (status, body) = self.request(Method::GET, ACTIVITY_GAUGES).await?;
        ensure!(
            status == StatusCode::OK,
            "Envoy responded with {status} to {ACTIVITY_GAUGES}"
        );
        read_activity(&String::from_utf8_lossy(&body))
            .with_context(|| format!("Envoy's response to {ACTIVITY_GAUGES} names no listener"))
    }

    /// Returns the page of all statistics that ever changed, in Prometheus' text format. The page is read as fast as the
    /// caller reads the body, so it is never in memory as a whole.
    pub(crate) async fn prometheus_statistics(self) -> anyhow::Result<Incoming> {
        let uri = Uri::from_static(PROMETHEUS_STATISTICS);
        let response = timeout(REQUEST_TIMEOUT, send(self.address, Method::GET, &uri))
            .await
            .unwrap_or_else(|_| bail!("no response within {REQUEST_TIMEOUT:?}"))
            .with_context(|| format!("Envoy's admin interface at {}", self.address))?;
        ensure!(
            response.status() == StatusCode::OK,
            "Envoy responded with {} to {PROMETHEUS_STATISTICS}",
            response.status()
        );
        Ok(response.into_body())
    }

    async fn request(self, method: Method, path: &str) -> anyhow::Result<(StatusCode, Bytes)> {
        let uri = path.parse().context("invalid path of Envoy's admin interface")?;
        request(self.address, method, uri, REQUEST_TIMEOUT)
            .await
            .with_context(|| format!("Envoy's admin interface at {}", self.address))
    }
}

/// Sends one HTTP/1.1 request on a new connection. Returns the status and the body of the response.
pub(crate) async fn request(
    address: SocketAddr,
    method: Method,
    uri: Uri,
    time_limit: Duration,
) -> anyhow::Result<(StatusCode, Bytes)> {
    let exchange = async {
        let response = send(address, method, &uri).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_RESPONSE).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!(error))?.to_bytes();
        Ok((status, body))
    };
    match timeout(time_limit, exchange).await {
        Ok(result) => result,
        Err(_) => bail!("no response within {time_limit:?}"),
    }
}

/// Sends one HTTP/1.1 request on a new connection. A task reads from the connection until the body of the response has
/// ended or is dropped.
async fn send(address: SocketAddr, method: Method, uri: &Uri) -> anyhow::Result<Response<Incoming>> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%address, %error, "a connection of an HTTP client failed");
        }
    });
    let request = Request::builder()
        .method(method)
        .uri(uri.path_and_query().map_or("/", |path| path.as_str()))
        .header(http::header::HOST, address.to_string())
        .body(Empty::<Bytes>::new())?;
    Ok(sender.send_request(request).await?)
}

/// Returns the address of an `http` URL whose host is an IP address or `localhost`. Other names would need a resolver.
pub(crate) fn literal_address(url: &Uri) -> anyhow::Result<SocketAddr> {
    let host = url
        .host()
        .unwrap_or_default()
        .trim_start_matches('[')
        .trim_end_matches(']');
    let ip: IpAddr = match host {
        "localhost" => Ipv4Addr::LOCALHOST.into(),
        other => other
            .parse()
            .with_context(|| format!("`{other}` in {url} is neither an IP address nor localhost"))?,
    };
    ensure!(
        url.scheme_str() == Some("http"),
        "{url} does not begin with http://"
    );
    Ok((ip, url.port_u16().unwrap_or(80)).into())
}

/// Reads lines of the forms `listener.<name>.downstream_cx_active: <count>`, `http.<name>.downstream_cx_active: <count>`
/// and `http.<name>.downstream_rq_active: <count>`. Returns `None` if there is no listener: the statistics are not
/// complete then, because they are served by the listener of the admin interface.
fn read_activity(statistics: &str) -> Option<Activity> {
    let (mut connections, mut http_connections, mut requests) = (0_u64, 0_u64, 0_u64);
    let mut has_listener = false;
    for (name, count) in statistics.lines().filter_map(|line| line.rsplit_once(": ")) {
        let Ok(count) = count.trim().parse::<u64>() else {
            continue;
        };
        let (kind, name) = name.split_once('.').unwrap_or_default();
        has_listener |= kind == "listener";
        // Leaves out the admin interface, which serves this request, and the gauges of workers, which repeat the gauge
        // of their listener.
        if name.starts_with("admin.") || name.contains(".worker_") {
            continue;
        }
        let sum = match (kind, name.ends_with(".downstream_rq_active")) {
            ("listener", false) => &mut connections,
            ("http", false) => &mut http_connections,
            ("http", true) => &mut requests,
            _ => continue,
        };
        *sum += count;
    }
    has_listener.then_some(Activity {
        connections,
        in_progress: requests + connections.saturating_sub(http_connections),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_connections_that_are_not_http_are_in_progress() {
        let statistics = "listener.10.0.0.1_80.downstream_cx_active: 4\n\
                          listener.0.0.0.0_15001.downstream_cx_active: 3\n\
                          http.inbound_web.downstream_cx_active: 4\n\
                          http.inbound_web.downstream_rq_active: 2\n\
                          http.outbound_api.downstream_cx_active: 1\n";
        let expected = Activity {
            connections: 7,
            in_progress: 4,
        };
        assert_eq!(read_activity(statistics), Some(expected));
    }

    #[test]
    fn admin_interface_and_gauges_of_workers_are_not_counted() {
        let statistics = "listener.10.0.0.1_80.downstream_cx_active: 2\n\
                          listener.10.0.0.1_80.worker_0.downstream_cx_active: 2\n\
                          listener.admin.downstream_cx_active: 1\n\
                          listener.admin.main_thread.downstream_cx_active: 1\n\
                          http.admin.downstream_cx_active: 1\n\
                          http.admin.downstream_rq_active: 1\n";
        let expected = Activity {
            connections: 2,
            in_progress: 2,
        };
        assert_eq!(read_activity(statistics), Some(expected));
    }

    #[test]
    fn envoy_that_only_its_admin_interface_has_used_is_idle() {
        let statistics = "listener.admin.downstream_cx_active: 1\nhttp.admin.downstream_rq_active: 1\n";
        let idle = Activity {
            connections: 0,
            in_progress: 0,
        };
        assert_eq!(read_activity(statistics), Some(idle));
    }

    #[test]
    fn page_without_a_listener_is_not_read_as_idle() {
        for page in ["", "http.inbound_web.downstream_rq_active: 0\n"] {
            assert_eq!(read_activity(page), None);
        }
    }

    #[test]
    fn only_http_urls_with_an_address_are_accepted() {
        let address = |text: &str| literal_address(&text.parse().unwrap());
        assert_eq!(
            address("http://localhost:9901/ready").unwrap().to_string(),
            "127.0.0.1:9901"
        );
        assert_eq!(address("http://[::1]:9901/").unwrap().to_string(), "[::1]:9901");
        assert!(address("https://127.0.0.1/").is_err());
        assert!(address("http://example.org/").is_err());
    }
}
