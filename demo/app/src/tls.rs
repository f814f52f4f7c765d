//! TLS of the server. The certificate is self-signed and made at the start. The kubelet accepts such a certificate for
//! HTTPS probes.

use std::sync::Arc;

use anyhow::{Context, Result};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;

/// Returns an acceptor for HTTP/2 and HTTP/1.1.
pub(crate) fn acceptor() -> Result<TlsAcceptor> {
    let key = rcgen::KeyPair::generate().context("cannot make a key")?;
    let certificate = rcgen::CertificateParams::new(vec!["kermode-demo.invalid".to_owned()])
        .and_then(|parameters| parameters.self_signed(&key))
        .context("cannot make a certificate")?;
    let private_key = PrivatePkcs8KeyDer::from(key.serialize_der());
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .context("no version of TLS is available")?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], private_key.into())
        .context("the certificate is not usable")?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
