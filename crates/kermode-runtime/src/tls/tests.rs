//! Tests of the limits on connections, and of the shutdown.

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

/// Time limit of a wait. A test that waits longer has failed. Also the value of time limits of the server that a test
/// must not reach.
const TEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Address of the server and of most clients.
const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Address of other clients.
const OTHER_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

struct Server {
    address: SocketAddr,
    client_config: Arc<ClientConfig>,
    shutdown_trigger: shutdown::Trigger,
    serving: JoinHandle<Result<(), TlsError>>,
}

type Client = tokio_rustls::client::TlsStream<TcpStream>;

impl Server {
    async fn start(limits: ServerLimits) -> Self {
        let pair = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
        let chain = vec![pair.cert.der().clone()];
        let mut roots = RootCertStore::empty();
        roots.add(chain[0].clone()).expect("a root");
        let key = PrivatePkcs8KeyDer::from(pair.signing_key.serialize_der());
        let certificate = ServingCertificate::new(chain, key.into()).expect("a pair");
        let listener = TcpListener::bind((ADDRESS, 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (shutdown_trigger, shutdown) = shutdown::channel();
        let router = Router::new().route("/", get(async || "hello"));
        let serving = tokio::spawn(serve_with_limits(
            limits,
            LimitCounters::default(),
            listener,
            certificate,
            router,
            shutdown,
        ));
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("TLS versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self {
            address,
            client_config: Arc::new(config),
            shutdown_trigger,
            serving,
        }
    }

    /// Connects from the address `from` and offers the ALPN protocols `protocols`.
    async fn connect(&self, from: IpAddr, protocols: &[&[u8]]) -> std::io::Result<Client> {
        let mut config = (*self.client_config).clone();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        let socket = TcpSocket::new_v4()?;
        socket.bind((from, 0).into())?;
        let stream = socket.connect(self.address).await?;
        let name = ServerName::try_from("localhost").expect("a name");
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }
}

/// Returns whether the server closes the connection within [`TEST_TIMEOUT`], with or without an error.
async fn is_closed(client: &mut Client) -> bool {
    let mut rest = Vec::new();
    tokio::time::timeout(TEST_TIMEOUT, client.read_to_end(&mut rest))
        .await
        .is_ok()
}

/// Sends an HTTP/1.1 request and returns the response. The connection stays open.
async fn send_request(client: &mut Client) -> String {
    let request = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";
    client.write_all(request).await.expect("an open connection");
    let mut response = vec![0; 1024];
    let length = client.read(&mut response).await.expect("an open connection");
    String::from_utf8_lossy(&response[..length]).into_owned()
}

#[tokio::test]
async fn client_without_a_request_is_disconnected() {
    let server = Server::start(ServerLimits {
        max_connections: 8,
        max_per_address: 8,
        first_request_timeout: Duration::from_millis(200),
        grace_period: TEST_TIMEOUT,
    })
    .await;
    let http1: &[u8] = b"http/1.1";
    for protocols in [&[][..], &[http1], &[b"h2"]] {
        let mut silent = server.connect(ADDRESS, protocols).await.expect("a handshake");
        assert!(is_closed(&mut silent).await, "{protocols:?}, nothing sent");
        // The beginning of HTTP/2's preface, which is an incomplete request in HTTP/1.1, too.
        let mut slow = server.connect(ADDRESS, protocols).await.expect("a handshake");
        slow.write_all(b"PRI * HTTP").await.expect("an open connection");
        assert!(is_closed(&mut slow).await, "{protocols:?}, part of a request");
    }
    // HTTP/2's preface and an empty SETTINGS frame, but no request.
    let mut idle = server.connect(ADDRESS, &[b"h2"]).await.expect("a handshake");
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    idle.write_all(preface).await.expect("an open connection");
    assert!(is_closed(&mut idle).await, "HTTP/2 without a request");
}

#[tokio::test]
async fn connection_with_a_request_stays_open_after_the_time_limit_of_the_first_request() {
    let request_received = Arc::new(Notify::new());
    request_received.notify_one();
    let connection = Box::pin(std::future::pending());
    let mut serving = std::pin::pin!(serve_with_first_request_timeout(
        request_received,
        Duration::ZERO,
        connection
    ));
    assert!(futures::poll!(&mut serving).is_pending());
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert!(futures::poll!(&mut serving).is_pending());
}

#[tokio::test]
async fn connection_serves_another_request_after_a_pause() {
    let server = Server::start(ServerLimits {
        max_connections: 8,
        max_per_address: 8,
        first_request_timeout: Duration::from_millis(200),
        grace_period: TEST_TIMEOUT,
    })
    .await;
    let mut used = server
        .connect(ADDRESS, &[b"http/1.1"])
        .await
        .expect("a handshake");
    assert!(send_request(&mut used).await.ends_with("hello"));
    let mut silent = server
        .connect(ADDRESS, &[b"http/1.1"])
        .await
        .expect("a handshake");
    assert!(
        is_closed(&mut silent).await,
        "a connection opened later than `used` has reached the time limit of the first request"
    );
    assert!(send_request(&mut used).await.ends_with("hello"));
}

#[tokio::test]
async fn connections_of_one_address_are_limited_and_the_longest_idle_one_is_closed_for_a_new_one() {
    let server = Server::start(ServerLimits {
        max_connections: 8,
        max_per_address: 2,
        first_request_timeout: TEST_TIMEOUT,
        grace_period: TEST_TIMEOUT,
    })
    .await;
    let http1: &[&[u8]] = &[b"http/1.1"];
    let mut other = server
        .connect(OTHER_ADDRESS, http1)
        .await
        .expect("a connection from another address");
    let mut first = server.connect(ADDRESS, http1).await.expect("within the limit");
    let mut second = server.connect(ADDRESS, http1).await.expect("within the limit");
    assert!(send_request(&mut first).await.ends_with("hello"));
    let mut third = server.connect(ADDRESS, http1).await.expect("a handshake");
    assert!(
        is_closed(&mut second).await,
        "the connection without a request must be closed"
    );
    for open in [&mut other, &mut first, &mut third] {
        assert!(send_request(open).await.ends_with("hello"));
    }
}

#[tokio::test]
async fn client_gets_through_while_others_hold_all_connections() {
    let server = Server::start(ServerLimits {
        max_connections: 8,
        max_per_address: 8,
        first_request_timeout: TEST_TIMEOUT,
        grace_period: TEST_TIMEOUT,
    })
    .await;
    // None of these clients sends a byte.
    let mut held = Vec::new();
    for _ in 0..8 {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind((OTHER_ADDRESS, 0).into()).expect("an address");
        held.push(socket.connect(server.address).await.expect("a connection"));
    }
    let request = async {
        let mut client = server.connect(ADDRESS, &[]).await.expect("a handshake");
        assert!(send_request(&mut client).await.ends_with("hello"));
    };
    tokio::time::timeout(TEST_TIMEOUT, request)
        .await
        .expect("a response");
}

#[tokio::test]
async fn connection_that_outlives_the_grace_period_is_closed() {
    let server = Server::start(ServerLimits {
        max_connections: 8,
        max_per_address: 8,
        first_request_timeout: TEST_TIMEOUT,
        grace_period: Duration::from_millis(50),
    })
    .await;
    // This client never starts the TLS handshake.
    let mut stuck = TcpStream::connect(server.address).await.expect("a connection");
    // The response to a later client shows that the server has accepted `stuck`.
    let mut later = server.connect(ADDRESS, &[]).await.expect("a handshake");
    assert!(send_request(&mut later).await.ends_with("hello"));
    server.shutdown_trigger.shut_down();
    let result = tokio::time::timeout(TEST_TIMEOUT / 10, server.serving).await;
    result
        .expect("the server ends")
        .expect("no panic")
        .expect("no error");
    assert!(
        !matches!(stuck.read(&mut [0]).await, Ok(1..)),
        "the connection must be closed"
    );
}

#[tokio::test]
async fn shutdown_closes_idle_http1_connections_and_ends_once_all_are_closed() {
    let server = Server::start(ServerLimits {
        max_connections: 8,
        max_per_address: 8,
        first_request_timeout: TEST_TIMEOUT,
        grace_period: TEST_TIMEOUT,
    })
    .await;
    let mut http1 = server
        .connect(ADDRESS, &[b"http/1.1"])
        .await
        .expect("a handshake");
    assert!(send_request(&mut http1).await.ends_with("hello"));
    let mut http2 = server.connect(ADDRESS, &[b"h2"]).await.expect("a handshake");
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    http2.write_all(preface).await.expect("an open connection");
    server.shutdown_trigger.shut_down();
    assert!(
        is_closed(&mut http1).await,
        "the idle HTTP/1.1 connection must be closed"
    );
    // The client closes the last connection.
    drop(http2);
    let result = tokio::time::timeout(TEST_TIMEOUT, server.serving).await;
    result
        .expect("the server ends")
        .expect("no panic")
        .expect("no error");
}
