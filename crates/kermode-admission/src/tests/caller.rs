//! Client that calls the webhooks as the API server does: with TLS and keep-alive connections.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Body;
use http::{Method, Request};
use http_body_util::BodyExt;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Client of the webhooks.
#[derive(Clone)]
pub(super) struct Caller {
    pub(super) address: SocketAddr,
    pub(super) ca: CertificateDer<'static>,
}

/// Keep-alive connection, for any number of calls.
pub(super) enum Connection {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
}

/// HTTP response of a webhook.
#[derive(Debug)]
pub(super) struct CallResponse {
    pub(super) status: u16,
    pub(super) text: String,
}

impl Caller {
    async fn connect_tls(&self, alpn_protocol: &[u8]) -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(self.address).await.expect("a connection");
        self.start_tls(stream, alpn_protocol).await.expect("a handshake")
    }

    /// Performs the TLS handshake on a connection, and offers one ALPN protocol.
    pub(super) async fn start_tls(
        &self,
        stream: TcpStream,
        alpn_protocol: &[u8],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.ca.clone()).expect("a CA");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn_protocol.to_vec()];
        let name = ServerName::try_from("localhost").expect("a name");
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }

    pub(super) async fn connect_http1(&self) -> Connection {
        let stream = TokioIo::new(self.connect_tls(b"http/1.1").await);
        let (sender, connection) = http1::handshake(stream).await.expect("HTTP/1.1");
        tokio::spawn(connection);
        Connection::Http1(sender)
    }

    pub(super) async fn connect_http2(&self) -> Connection {
        let stream = TokioIo::new(self.connect_tls(b"h2").await);
        let (sender, connection) = http2::handshake(TokioExecutor::new(), stream)
            .await
            .expect("HTTP/2");
        tokio::spawn(connection);
        Connection::Http2(sender)
    }

    /// Calls a webhook on a new connection.
    pub(super) async fn post(&self, path: &str, body: impl Into<Body>) -> CallResponse {
        self.connect_http1().await.call(Method::POST, path, body).await
    }
}

impl Connection {
    pub(super) async fn call(&mut self, method: Method, path: &str, body: impl Into<Body>) -> CallResponse {
        let request = Request::builder()
            .method(method)
            .uri(format!("https://localhost{path}"))
            .header("host", "localhost")
            .header("content-type", "application/json")
            .body(body.into())
            .expect("a request");
        let response = match self {
            Self::Http1(sender) => {
                sender.ready().await.expect("a connection");
                sender.send_request(request).await
            }
            Self::Http2(sender) => sender.send_request(request).await,
        };
        let response = response.expect("a response");
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        let text = String::from_utf8(body.to_vec()).expect("text");
        CallResponse { status, text }
    }
}

impl CallResponse {
    /// Returns the body of a successful response, as JSON.
    pub(super) fn json(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text);
        serde_json::from_str(&self.text).expect("JSON")
    }
}
