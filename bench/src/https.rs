//! Persistent HTTPS connections with HTTP/1.1, as the API server opens them to webhooks.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Opens connections to one server.
#[derive(Clone)]
pub struct Connector {
    address: SocketAddr,
    config: Arc<ClientConfig>,
}

/// One persistent connection.
#[derive(Debug)]
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
}

impl Connector {
    /// Returns a connector to a server. The CA must have issued the server's certificate for the IP address.
    ///
    /// # Errors
    /// When the CA certificate cannot be parsed.
    pub fn new(address: SocketAddr, ca_pem: &str) -> Result<Self> {
        Ok(Self {
            address,
            config: Arc::new(client_config(ca_pem, b"http/1.1")?),
        })
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// When the server cannot be reached or a handshake fails.
    pub async fn connect(&self) -> Result<Connection> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::from(self.address.ip());
        let stream = TlsConnector::from(self.config.clone())
            .connect(name, stream)
            .await?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Connection { sender })
    }
}

/// Returns a TLS configuration that trusts one CA and offers one ALPN protocol.
///
/// # Errors
/// When the CA certificate cannot be parsed.
pub fn client_config(ca_pem: &str, protocol: &[u8]) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes())?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    Ok(config)
}

impl Connection {
    /// Posts JSON and returns the body of the response.
    ///
    /// # Errors
    /// When the connection breaks or the status is not 200.
    pub async fn post(&mut self, path: &str, body: Bytes) -> Result<Bytes> {
        let request = Request::post(path)
            .header("host", "localhost")
            .header("user-agent", "kube-apiserver-admission")
            .header("accept", "application/json, */*")
            .header("content-type", "application/json")
            .header("accept-encoding", "gzip")
            .body(Full::new(body))?;
        self.sender.ready().await.context("the connection was closed")?;
        let response = self.sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        ensure!(
            status == StatusCode::OK,
            "the server responded with {status}: {}",
            String::from_utf8_lossy(&body)
        );
        Ok(body)
    }
}
