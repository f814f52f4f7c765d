//! Client of Envoy's admin interface, and the HTTP client that it shares with `kuma-dp wait`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Limit on a response body, in bytes. A filtered statistics page is far smaller.
const MAX_RESPONSE: usize = 1024 * 1024;
/// Timeout of one request. Envoy responds within milliseconds unless its main thread is stuck.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Path and query of the connection gauges of all listeners.
const CONNECTION_GAUGES: &str = "/stats?filter=^listener%5C..*%5C.downstream_cx_active$";

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

    /// Returns the number of open downstream connections, without connections to the admin interface.
    pub(crate) async fn open_connections(self) -> anyhow::Result<u64> {
        let (status, body) = self.request(Method::GET, CONNECTION_GAUGES).await?;
        ensure!(
            status == StatusCode::OK,
            "Envoy responded with {status} to {CONNECTION_GAUGES}"
        );
        Ok(count_connections(&String::from_utf8_lossy(&body)))
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
        let stream = TcpStream::connect(address).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let request = Request::builder()
            .method(method)
            .uri(uri.path_and_query().map_or("/", |path| path.as_str()))
            .header(http::header::HOST, address.to_string())
            .body(Empty::<Bytes>::new())?;
        let response = async {
            let response = sender.send_request(request).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_RESPONSE).collect().await;
            let body = body.map_err(|error| anyhow::anyhow!(error))?.to_bytes();
            anyhow::Ok((status, body))
        };
        let driver = async {
            connection.await?;
            // The result comes from `response`, which fails if the connection was closed early.
            std::future::pending::<anyhow::Result<(StatusCode, Bytes)>>().await
        };
        tokio::select! {
            biased;
            result = response => result,
            result = driver => result,
        }
    };
    match timeout(time_limit, exchange).await {
        Ok(result) => result,
        Err(_) => bail!("no response within {time_limit:?}"),
    }
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

/// Returns the sum of gauges of the form `listener.<name>.downstream_cx_active: <count>`.
fn count_connections(statistics: &str) -> u64 {
    let gauges = statistics.lines().filter_map(|line| line.rsplit_once(": "));
    gauges
        // Excludes the admin listener, which serves this request, and the gauges of workers, which repeat the gauge of
        // their listener.
        .filter(|(name, _)| !name.starts_with("listener.admin.") && !name.contains(".worker_"))
        .filter_map(|(_, count)| count.trim().parse::<u64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_of_the_admin_interface_and_gauges_of_workers_are_not_counted() {
        let statistics = "listener.10.0.0.1_80.downstream_cx_active: 2\n\
                          listener.10.0.0.1_80.worker_0.downstream_cx_active: 2\n\
                          listener.admin.downstream_cx_active: 1\n\
                          listener.admin.main_thread.downstream_cx_active: 1\n\
                          listener.0.0.0.0_15001.downstream_cx_active: 3\n";
        assert_eq!(count_connections(statistics), 5);
        assert_eq!(count_connections(""), 0);
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
