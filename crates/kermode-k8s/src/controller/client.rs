//! Client of the API server that detects a dead connection within a bounded time.
//!
//! A watch is silent while nothing changes, so a dead connection (failed node, load balancer that lost its state) looks
//! like an idle one. kube's default client detects a dead connection only after five minutes. Until then, no change
//! would reach a sidecar.

use std::time::Duration;

use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::ConfigExt as _;
use kube::client::retry::RetryPolicy;
use kube::{Client, Config};
use tower::retry::RetryLayer;
use tower::{BoxError, ServiceBuilder};

/// Timeout for establishing a connection, including TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Idle time after which the kernel sends TCP keepalive probes. With [`KEEPALIVE_INTERVAL`] and [`KEEPALIVE_RETRIES`],
/// a dead peer is detected after 19 s.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
/// Interval between TCP keepalive probes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(3);
/// Number of unanswered TCP keepalive probes after which the kernel closes the connection.
const KEEPALIVE_RETRIES: u32 = 3;
/// Time after which the kernel closes a connection with unacknowledged data (`TCP_USER_TIMEOUT`).
const USER_TIMEOUT: Duration = Duration::from_secs(20);
/// Timeout for reads, which detects an API server that hangs. The timeout must be longer than a watch request
/// ([`super::watch::watch_config`]), because a watch may be silent until its request ends.
const READ_TIMEOUT: Duration = Duration::from_secs(100);

/// Builds a client for a configuration.
///
/// # Errors
/// When credentials or certificates of the configuration are invalid.
pub fn build(config: Config) -> kube::Result<Client> {
    build_with_read_timeout(config, READ_TIMEOUT)
}

fn build_with_read_timeout(config: Config, read_timeout: Duration) -> kube::Result<Client> {
    if config.proxy_url.is_some() {
        // Only kube's default client supports HTTP proxies. It has timeouts of its own instead of those of this module.
        return Client::try_from(config);
    }
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    tcp.set_keepalive(Some(KEEPALIVE_IDLE));
    tcp.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
    tcp.set_keepalive_retries(Some(KEEPALIVE_RETRIES));
    tcp.set_tcp_user_timeout(Some(USER_TIMEOUT));
    let mut connector = TimeoutConnector::new(config.rustls_https_connector_with_connector(tcp)?);
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    connector.set_read_timeout(Some(read_timeout));
    // A request restarts the read timeout. Otherwise the timeout would include the idle time before the request.
    connector.set_reset_reader_on_write(true);
    let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        // Retries on retryable status codes, such as 429.
        .option_layer(
            config
                .default_retry
                .then(|| RetryLayer::new(RetryPolicy::server_retry())),
        )
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(http);
    Ok(Client::new(service, config.default_namespace))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Namespace;
    use kube::Api;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;

    use super::*;
    use crate::controller::watch::{Update, follow_unconverted};

    const LIST: &str =
        r#"{"kind":"NamespaceList","apiVersion":"v1","metadata":{"resourceVersion":"1"},"items":[]}"#;
    const EVENT: &str = r#"{"type":"ADDED","object":{"kind":"Namespace","apiVersion":"v1","metadata":{"name":"new","resourceVersion":"2"}}}"#;

    /// Serves empty lists. The first watch hangs, and each later watch delivers one event.
    async fn serve_with_hanging_first_watch(listener: TcpListener) {
        let mut watches = 0;
        let mut hanging_streams = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if stream.read(&mut byte).await.unwrap() == 0 {
                    break;
                }
                request.push(byte[0]);
            }
            let body = if String::from_utf8_lossy(&request).contains("watch=true") {
                watches += 1;
                if watches == 1 { None } else { Some(EVENT) }
            } else {
                Some(LIST)
            };
            if let Some(body) = body {
                let response = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n{body}\n"
                );
                stream.write_all(response.as_bytes()).await.unwrap();
            } else {
                hanging_streams.push(stream);
            }
        }
    }

    #[tokio::test]
    async fn watch_of_an_api_server_that_hangs_is_restarted() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = tokio::spawn(serve_with_hanging_first_watch(listener));
        let config = Config::new(url.parse().unwrap());
        let client = build_with_read_timeout(config, Duration::from_millis(200)).unwrap();
        let events = kube::runtime::watcher(
            Api::<Namespace>::all(client),
            kube::runtime::watcher::Config::default(),
        );
        let (sink, mut updates) = mpsc::channel(4);
        let following = tokio::spawn(follow_unconverted(events, sink));
        assert_eq!(updates.recv().await, Some(Update::Synced));
        let Some(Update::Applied(key, ())) = updates.recv().await else {
            panic!("the second watch reported no object")
        };
        assert_eq!(&*key.name, "new");
        following.abort();
        server.abort();
    }
}
