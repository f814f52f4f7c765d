//! The way to the API server: a client that notices within a bounded time when nobody is at the other end any more.
//!
//! A watch is silent for as long as nothing changes, so a connection whose peer has vanished (a node that died, a load
//! balancer that forgot it) looks like a quiet one. kube's client waits five minutes then; what changes meanwhile would
//! not reach any sidecar.

use std::time::Duration;

use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::ConfigExt as _;
use kube::client::retry::RetryPolicy;
use kube::{Client, Config};
use tower::retry::RetryLayer;
use tower::{BoxError, ServiceBuilder};

/// How long a connection may take to be made, TLS included.
const CONNECT: Duration = Duration::from_secs(5);
/// A connection that is silent for so long is probed by the kernel,
const KEEPALIVE: Duration = Duration::from_secs(10);
/// again after so long,
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(3);
/// and given up after so many probes without an answer: 19 s together.
const KEEPALIVE_RETRIES: u32 = 3;
/// What was sent is acknowledged by the peer's kernel within this time, or the connection is given up.
const UNACKNOWLEDGED: Duration = Duration::from_secs(20);
/// An API server that is there but says nothing. One that works ends a watch before (`watch_config`).
const SILENCE: Duration = Duration::from_secs(100);

/// A client for this configuration.
///
/// # Errors
/// When credentials or certificates in it cannot be used.
pub fn client(config: Config) -> kube::Result<Client> {
    within(config, SILENCE)
}

fn within(config: Config, silence: Duration) -> kube::Result<Client> {
    if config.proxy_url.is_some() {
        // Of people's kubeconfigs only; kube knows how.
        return Client::try_from(config);
    }
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT));
    tcp.set_keepalive(Some(KEEPALIVE));
    tcp.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
    tcp.set_keepalive_retries(Some(KEEPALIVE_RETRIES));
    tcp.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
    let mut connector = TimeoutConnector::new(config.rustls_https_connector_with_connector(tcp)?);
    connector.set_connect_timeout(Some(CONNECT));
    connector.set_read_timeout(Some(silence));
    // Else the time that a connection lay idle would count.
    connector.set_reset_reader_on_write(true);
    let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        // Of answers by which the API server asks for it.
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
    use crate::controller::watch::{Conversion, Update, follow};

    const LIST: &str =
        r#"{"kind":"NamespaceList","apiVersion":"v1","metadata":{"resourceVersion":"1"},"items":[]}"#;
    const EVENT: &str = r#"{"type":"ADDED","object":{"kind":"Namespace","apiVersion":"v1","metadata":{"name":"new","resourceVersion":"2"}}}"#;

    /// An API server whose first watch never says anything, and whose later ones have an event.
    async fn frozen_once(listener: TcpListener) {
        let mut watches = 0;
        let mut held = Vec::new();
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
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n{body}\n"
                );
                stream.write_all(answer.as_bytes()).await.unwrap();
            } else {
                held.push(stream);
            }
        }
    }

    #[tokio::test]
    async fn a_watch_of_an_api_server_that_froze_is_begun_again() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = tokio::spawn(frozen_once(listener));
        let client = within(Config::new(url.parse().unwrap()), Duration::from_millis(200)).unwrap();
        let events = kube::runtime::watcher(
            Api::<Namespace>::all(client),
            kube::runtime::watcher::Config::default(),
        );
        let (sink, mut updates) = mpsc::channel(4);
        let following = tokio::spawn(follow(
            "namespaces",
            events,
            |_| Conversion::Keep(()),
            |update| update,
            sink,
        ));
        assert_eq!(updates.recv().await, Some(Update::Synced));
        let Some(Update::Applied(key, ())) = updates.recv().await else {
            panic!("no event")
        };
        assert_eq!(&*key.name, "new");
        following.abort();
        server.abort();
    }
}
