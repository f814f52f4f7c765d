//! The Pods' sidecars, as seen by a client: one TLS server at all loopback addresses, which sends a byte over each
//! connection.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Result;
use kermode_identity::{Authority, TrustBundle};
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::mesh::{self, dataplane_of_service};

/// Service of all Pods.
pub(super) const SERVICE: &str = "web_bench_svc_80";

/// The running server. Dropping it ends the server.
pub(super) struct Servers {
    port: u16,
    task: JoinHandle<()>,
}

impl Servers {
    /// Port of the server.
    pub(super) fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Starts the server, and writes the secrets of Envoy into a folder.
pub(super) async fn start(folder: &Path) -> Result<Servers> {
    let now = SystemTime::now();
    let authority = Authority::generate(&mesh::name(), now)?;
    mesh::write_secrets(folder, &authority, &dataplane_of_service("client_bench_svc"), now)?;
    let (chain, key) = mesh::issue(&authority, &dataplane_of_service(SERVICE), now)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    for root in TrustBundle::new([authority.certificate().clone()]).roots() {
        roots.add(root.clone())?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build()?;
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            chain.chain,
            PrivateKeyDer::from_pem_slice(key.private_key_pem().as_bytes())?,
        )?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind(("0.0.0.0", 0)).await?;
    let port = listener.local_addr()?.port();
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                stream.set_nodelay(true)?;
                let mut stream = acceptor.accept(stream).await?;
                stream.write_all(b"x").await?;
                stream.flush().await?;
                // Keeps the connection open until the client closes it.
                stream.read(&mut [0]).await
            });
        }
    });
    Ok(Servers { port, task })
}
