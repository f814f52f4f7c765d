//! Tests with a TLS handshake in memory.

use std::time::{Duration, SystemTime};

use kermode_identity::{ServingAuthority, Term};
use rustls::ServerConfig;
use rustls_pki_types::ServerName;
use tokio_rustls::TlsAcceptor;

use super::*;

fn mk_authority() -> ServingAuthority {
    ServingAuthority::generate(SystemTime::now()).unwrap()
}

fn bundle(authorities: &[&ServingAuthority]) -> String {
    authorities.iter().map(|ca| ca.certificate_pem()).collect()
}

/// Trust of the environment's `authority`, and of a file in a directory.
fn mk_trust(authority: &ServingAuthority) -> (Trust, tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ca.crt");
    let roots = TrustBundle::from_pem(&authority.certificate_pem()).unwrap();
    (Trust::new(&roots, Some(file.clone())).unwrap(), directory, file)
}

/// Whether a new connection accepts a server whose certificate is from `authority`.
async fn accepts(trust: &Trust, authority: &ServingAuthority) -> bool {
    let term = Term::of(Duration::from_hours(1));
    let issued = authority.issue(&["localhost"], term, SystemTime::now()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(issued.certificate.chain.clone(), issued.private_key().into())
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let (client, server) = tokio::io::duplex(16 * 1024);
    let name = ServerName::try_from("localhost").unwrap();
    let connector = trust.connector().await;
    let (connected, _) = tokio::join!(
        connector.connect(name, client),
        TlsAcceptor::from(Arc::new(config)).accept(server)
    );
    connected.is_ok()
}

#[tokio::test]
async fn roots_of_the_environment_are_used_until_the_file_exists() {
    let (old, new) = (mk_authority(), mk_authority());
    let (trust, _directory, file) = mk_trust(&old);
    assert!(accepts(&trust, &old).await);
    assert!(!accepts(&trust, &new).await);
    assert_eq!(trust.source(), "KUMA_CONTROL_PLANE_CA_CERT");
    std::fs::write(&file, bundle(&[&new])).unwrap();
    assert!(accepts(&trust, &new).await, "the next connection reads the file");
    assert_eq!(trust.source(), file.display().to_string());
}

#[tokio::test]
async fn both_roots_of_a_rotation_are_trusted_and_a_removed_root_is_not() {
    let (old, new) = (mk_authority(), mk_authority());
    let (trust, _directory, file) = mk_trust(&old);
    std::fs::write(&file, bundle(&[&old, &new])).unwrap();
    assert!(accepts(&trust, &old).await && accepts(&trust, &new).await);
    std::fs::write(&file, bundle(&[&new])).unwrap();
    assert!(
        !accepts(&trust, &old).await,
        "the environment does not restore a removed root"
    );
    assert!(accepts(&trust, &new).await);
}

#[tokio::test]
async fn damaged_and_missing_files_keep_the_last_roots() {
    let (old, new) = (mk_authority(), mk_authority());
    let (trust, _directory, file) = mk_trust(&old);
    std::fs::write(&file, bundle(&[&new])).unwrap();
    assert!(accepts(&trust, &new).await);
    let malformed = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let too_large = "x".repeat(usize::try_from(MAX_FILE_SIZE).unwrap() + 1);
    for damaged in [
        "",
        "no certificate",
        malformed,
        &bundle(&[&old])[..100],
        &too_large,
    ] {
        std::fs::write(&file, damaged).unwrap();
        assert!(accepts(&trust, &new).await, "{damaged:.40}");
        assert!(!accepts(&trust, &old).await, "{damaged:.40}");
    }
    std::fs::remove_file(&file).unwrap();
    assert!(accepts(&trust, &new).await, "the file is missing");
    std::fs::write(&file, bundle(&[&old])).unwrap();
    assert!(accepts(&trust, &old).await, "the file is whole again");
}

#[tokio::test]
async fn unchanged_file_keeps_the_connector() {
    let authority = mk_authority();
    let (trust, _directory, file) = mk_trust(&authority);
    std::fs::write(&file, bundle(&[&authority])).unwrap();
    let first = trust.connector().await;
    let second = trust.connector().await;
    assert!(Arc::ptr_eq(first.config(), second.config()));
}
