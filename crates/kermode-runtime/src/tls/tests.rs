//! Tests of the limits on connections.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use axum::Router;
use axum::routing::get;
use rustls::pki_types::{PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use super::*;
use crate::shutdown;

/// Time after which a test fails.
const PATIENCE: Duration = Duration::from_secs(30);
const HOME: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const NEIGHBOUR: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

struct Server {
    address: SocketAddr,
    connector: Arc<ClientConfig>,
    trigger: shutdown::Trigger,
    serving: JoinHandle<Result<(), TlsError>>,
}

type Client = tokio_rustls::client::TlsStream<TcpStream>;

impl Server {
    async fn start(bounds: Bounds) -> Self {
        let pair = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
        let chain = vec![pair.cert.der().clone()];
        let mut roots = RootCertStore::empty();
        roots.add(chain[0].clone()).expect("a root");
        let key = PrivatePkcs8KeyDer::from(pair.signing_key.serialize_der());
        let certificate = ServingCertificate::new(chain, key.into()).expect("a pair");
        let listener = TcpListener::bind((HOME, 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (trigger, shutdown) = shutdown::channel();
        let router = Router::new().route("/", get(async || "hello"));
        let serving = tokio::spawn(serve_within(bounds, listener, certificate, router, shutdown));
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self {
            address,
            connector: Arc::new(config),
            trigger,
            serving,
        }
    }

    async fn connect(&self, from: IpAddr, protocols: &[&[u8]]) -> std::io::Result<Client> {
        let mut config = (*self.connector).clone();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        let socket = TcpSocket::new_v4()?;
        socket.bind((from, 0).into())?;
        let stream = socket.connect(self.address).await?;
        let name = ServerName::try_from("localhost").expect("a name");
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }
}

/// Whether the server closes the connection, with or without an error.
async fn is_closed(client: &mut Client) -> bool {
    let mut rest = Vec::new();
    tokio::time::timeout(PATIENCE, client.read_to_end(&mut rest))
        .await
        .is_ok()
}

/// Sends a request by HTTP/1.1; the connection stays open.
async fn asks(client: &mut Client) -> String {
    let request = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";
    client.write_all(request).await.expect("it is open");
    let mut answer = vec![0; 1024];
    let length = client.read(&mut answer).await.expect("it is open");
    String::from_utf8_lossy(&answer[..length]).into_owned()
}

#[tokio::test]
async fn client_without_a_request_is_disconnected() {
    let server = Server::start(Bounds {
        connections: 8,
        per_source: 8,
        first_request: Duration::from_millis(200),
    })
    .await;
    let http1: &[u8] = b"http/1.1";
    for protocols in [&[][..], &[http1], &[b"h2"]] {
        let mut silent = server.connect(HOME, protocols).await.expect("a handshake");
        assert!(is_closed(&mut silent).await, "{protocols:?} and silence");
        // Half of HTTP/2's preface, or of a head.
        let mut slow = server.connect(HOME, protocols).await.expect("a handshake");
        slow.write_all(b"PRI * HTTP").await.expect("it is open");
        assert!(is_closed(&mut slow).await, "{protocols:?} and half a word");
    }
    // The whole preface and settings, but no request.
    let mut idle = server.connect(HOME, &[b"h2"]).await.expect("a handshake");
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    idle.write_all(preface).await.expect("it is open");
    assert!(is_closed(&mut idle).await, "HTTP/2 without a request");
}

#[tokio::test]
async fn connection_with_a_request_outlives_the_limit_of_the_first_request() {
    let asked = Arc::new(Notify::new());
    asked.notify_one();
    let connection = Box::pin(std::future::pending());
    let mut serving = std::pin::pin!(unless_silent(asked, Duration::ZERO, connection));
    assert!(futures::poll!(&mut serving).is_pending());
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert!(futures::poll!(&mut serving).is_pending());
}

#[tokio::test]
async fn connection_serves_another_request_after_a_pause() {
    let server = Server::start(Bounds {
        connections: 8,
        per_source: 8,
        first_request: Duration::from_millis(200),
    })
    .await;
    let mut kept = server.connect(HOME, &[b"http/1.1"]).await.expect("a handshake");
    assert!(asks(&mut kept).await.ends_with("hello"));
    let mut silent = server.connect(HOME, &[b"http/1.1"]).await.expect("a handshake");
    assert!(
        is_closed(&mut silent).await,
        "the time for a first request is over"
    );
    assert!(asks(&mut kept).await.ends_with("hello"));
}

#[tokio::test]
async fn connections_of_one_address_are_limited() {
    let server = Server::start(Bounds {
        connections: 8,
        per_source: 2,
        first_request: PATIENCE,
    })
    .await;
    let mut first = server.connect(HOME, &[]).await.expect("its share");
    let _second = server.connect(HOME, &[]).await.expect("its share");
    assert!(server.connect(HOME, &[]).await.is_err(), "more than its share");
    let mut neighbour = server.connect(NEIGHBOUR, &[]).await.expect("another address");
    assert!(asks(&mut neighbour).await.ends_with("hello"));
    assert!(asks(&mut first).await.ends_with("hello"));
    drop(first);
    let again = async {
        while server.connect(HOME, &[]).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, again)
        .await
        .expect("the place is free again");
}

#[tokio::test]
async fn shutdown_closes_connections_without_a_request_at_once() {
    let server = Server::start(Bounds {
        connections: 8,
        per_source: 8,
        first_request: PATIENCE,
    })
    .await;
    let mut asked = server.connect(HOME, &[b"http/1.1"]).await.expect("a handshake");
    assert!(asks(&mut asked).await.ends_with("hello"));
    let mut idle = server.connect(HOME, &[b"h2"]).await.expect("a handshake");
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    idle.write_all(preface).await.expect("it is open");
    server.trigger.shut_down();
    assert!(is_closed(&mut asked).await, "HTTP/1.1");
    drop(idle);
    let ended = tokio::time::timeout(PATIENCE, server.serving).await;
    ended.expect("an end").expect("no panic").expect("TLS");
}
