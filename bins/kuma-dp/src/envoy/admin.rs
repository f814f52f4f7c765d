//! Envoy's admin interface, and the one HTTP request that `kuma-dp wait` needs.

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

/// Longest answer read. A filtered statistics page is far shorter.
const LONGEST_ANSWER: usize = 1024 * 1024;
/// An admin interface that takes longer belongs to an Envoy that is stuck.
const PATIENCE: Duration = Duration::from_secs(5);
/// All connection gauges of listeners.
const CONNECTIONS: &str = "/stats?filter=^listener%5C..*%5C.downstream_cx_active$";

/// The admin interface on 127.0.0.1.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Admin {
    address: SocketAddr,
}

impl Admin {
    pub(crate) fn new(port: NonZeroU16) -> Self {
        Self {
            address: (Ipv4Addr::LOCALHOST, port.get()).into(),
        }
    }

    /// Makes Envoy's `/ready` fail and its connections end at their next chance (BEHAVIOUR section 5.3).
    pub(crate) async fn fail_healthcheck(self) -> anyhow::Result<()> {
        let (status, _) = self.request(Method::POST, "/healthcheck/fail").await?;
        ensure!(
            status == StatusCode::OK,
            "Envoy answered {status} to /healthcheck/fail"
        );
        Ok(())
    }

    /// How many connections from clients are open, those of the admin interface not counted.
    pub(crate) async fn open_connections(self) -> anyhow::Result<u64> {
        let (status, body) = self.request(Method::GET, CONNECTIONS).await?;
        ensure!(
            status == StatusCode::OK,
            "Envoy answered {status} to {CONNECTIONS}"
        );
        Ok(count_connections(&String::from_utf8_lossy(&body)))
    }

    async fn request(self, method: Method, path: &str) -> anyhow::Result<(StatusCode, Bytes)> {
        let uri = path.parse().context("path of the admin interface")?;
        request(self.address, method, uri, PATIENCE)
            .await
            .with_context(|| format!("Envoy's admin interface at {}", self.address))
    }
}

/// One HTTP/1.1 request on a connection of its own.
pub(crate) async fn request(
    address: SocketAddr,
    method: Method,
    uri: Uri,
    patience: Duration,
) -> anyhow::Result<(StatusCode, Bytes)> {
    let exchange = async {
        let stream = TcpStream::connect(address).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let request = Request::builder()
            .method(method)
            .uri(uri.path_and_query().map_or("/", |path| path.as_str()))
            .header(http::header::HOST, address.to_string())
            .body(Empty::<Bytes>::new())?;
        let answer = async {
            let response = sender.send_request(request).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), LONGEST_ANSWER).collect().await;
            let body = body.map_err(|error| anyhow::anyhow!(error))?.to_bytes();
            anyhow::Ok((status, body))
        };
        let driver = async {
            connection.await?;
            // Ends only after the answer; a connection closed before it makes the other branch fail first.
            std::future::pending::<anyhow::Result<(StatusCode, Bytes)>>().await
        };
        tokio::select! {
            biased;
            answered = answer => answered,
            failed = driver => failed,
        }
    };
    match timeout(patience, exchange).await {
        Ok(result) => result,
        Err(_) => bail!("no answer within {patience:?}"),
    }
}

/// The address in a URL with an IP address or `localhost`: names need a resolver, which hooks do without.
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
            .with_context(|| format!("`{other}` in {url} is neither an IP nor localhost"))?,
    };
    ensure!(
        url.scheme_str() == Some("http"),
        "{url} does not begin with http://"
    );
    Ok((ip, url.port_u16().unwrap_or(80)).into())
}

/// Adds up gauges of the form `listener.<name>.downstream_cx_active: <count>`.
fn count_connections(statistics: &str) -> u64 {
    let gauges = statistics.lines().filter_map(|line| line.rsplit_once(": "));
    gauges
        // The admin interface is used by this very question; workers' gauges repeat those of their listener.
        .filter(|(name, _)| !name.starts_with("listener.admin.") && !name.contains(".worker_"))
        .filter_map(|(_, count)| count.trim().parse::<u64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_of_the_admin_interface_and_repeats_of_workers_do_not_count() {
        let statistics = "listener.10.0.0.1_80.downstream_cx_active: 2\n\
                          listener.10.0.0.1_80.worker_0.downstream_cx_active: 2\n\
                          listener.admin.downstream_cx_active: 1\n\
                          listener.admin.main_thread.downstream_cx_active: 1\n\
                          listener.0.0.0.0_15001.downstream_cx_active: 3\n";
        assert_eq!(count_connections(statistics), 5);
        assert_eq!(count_connections(""), 0);
    }

    #[test]
    fn only_plain_urls_with_an_address_are_taken() {
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
