//! The Pods' sidecars, as seen by a client: one TLS server at all loopback addresses, which sends a byte over each
//! connection.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use kermode_identity::{Authority, Entitlement, IssuedCertificate, Term, TrustBundle, WorkloadKey};
use kermode_model::{Dataplane, Inbound, MeshName, ObjectKey, tag};
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// Service of all Pods.
pub(super) const SERVICE: &str = "web_bench_svc_80";
/// Names of the files with Envoy's secrets in the folder of a measurement.
pub(super) const IDENTITY_FILE: &str = "identity.json";
pub(super) const TRUST_FILE: &str = "trust.json";
const VALIDITY: Duration = Duration::from_hours(24);

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
    let authority = Authority::generate(&mesh(), now)?;
    let (chain, key) = issue(&authority, "client_bench_svc", now)?;
    write_secret(
        &folder.join(IDENTITY_FILE),
        &kermode_protocol::secrets::identity_secret_name(&mesh()),
        json!({ "tls_certificate": {
            "certificate_chain": { "inline_string": chain.chain_pem() },
            "private_key": { "inline_string": key.private_key_pem() },
        }}),
    )?;
    write_secret(
        &folder.join(TRUST_FILE),
        &kermode_protocol::secrets::trust_bundle_secret_name(&mesh()),
        json!({ "validation_context": { "trusted_ca": { "inline_string": authority.certificate_pem() } } }),
    )?;
    let (chain, key) = issue(&authority, SERVICE, now)?;
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

pub(super) fn mesh() -> MeshName {
    "default".into()
}

/// Issues a certificate with the SPIFFE ID of a service. Returns it with its key.
fn issue(authority: &Authority, service: &str, now: SystemTime) -> Result<(IssuedCertificate, WorkloadKey)> {
    let dataplane = Dataplane {
        key: ObjectKey::new("bench", service),
        mesh: mesh(),
        address: std::net::Ipv4Addr::LOCALHOST.into(),
        additional_addresses: Vec::new(),
        inbounds: vec![Inbound {
            port: 80,
            tags: [(tag::SERVICE.into(), service.into())].into_iter().collect(),
            ready: None,
        }],
        gateway: None,
        transparent_proxying: None,
        admin_port: None,
        probes: None,
        metrics: None,
    };
    let key = WorkloadKey::generate()?;
    let entitlement = Entitlement::of(&dataplane);
    let certificate = authority.sign_csr(&key.csr_der()?, &entitlement, Term::of(VALIDITY), now)?;
    Ok((certificate, key))
}

/// Writes a file from which Envoy reads a secret: a discovery response with this secret.
fn write_secret(path: &Path, name: &str, mut secret: serde_json::Value) -> Result<()> {
    secret["@type"] = json!("type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret");
    secret["name"] = json!(name);
    let response = json!({ "resources": [secret] });
    std::fs::write(path, response.to_string()).with_context(|| format!("cannot write {}", path.display()))
}
