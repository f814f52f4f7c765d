//! Tests of the control plane's server certificates. The tests verify a certificate as a proxy does.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::*;
use crate::workload::tests::secret_bytes_as_text;

const DAY: Duration = Duration::from_hours(24);

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_hours(500_000)
}

fn verify(authority: &ServingAuthority, issued: &IssuedCertificate, name: &str) -> Result<(), rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(authority.certificate_pem().as_bytes()).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), provider)
        .build()
        .unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let time = UnixTime::since_unix_epoch(now().duration_since(UNIX_EPOCH).unwrap());
    let (leaf, intermediates) = issued.chain.split_first().unwrap();
    rustls::client::danger::ServerCertVerifier::verify_server_cert(
        &*verifier,
        leaf,
        intermediates,
        &name,
        &[],
        time,
    )
    .map(|_| ())
}

#[test]
fn serving_certificate_verifies_for_its_names_and_no_other() {
    let authority = ServingAuthority::generate(now()).unwrap();
    let names = ["kuma-control-plane.kong-mesh-system", "127.0.0.1"];
    let serving = authority.issue(&names, Term::of(DAY), now()).unwrap();
    for name in names {
        assert_eq!(verify(&authority, &serving.certificate, name), Ok(()), "{name}");
    }
    assert!(verify(&authority, &serving.certificate, "kubernetes.default").is_err());
}

#[test]
fn renewal_is_due_at_four_fifths_of_the_validity() {
    let serving = ServingAuthority::generate(now())
        .unwrap()
        .issue(&["cp"], Term::of(DAY), now())
        .unwrap();
    assert!(!serving.needs_renewal(now()));
    assert!(!serving.needs_renewal(now() + DAY * 7 / 10));
    assert!(serving.needs_renewal(now() + DAY * 8 / 10));
}

#[test]
fn certificate_of_an_authority_restored_from_pem_verifies_against_the_original_root() {
    let authority = ServingAuthority::generate(now()).unwrap();
    let restored = ServingAuthority::from_pem(&authority.certificate_pem(), &authority.key_pem()).unwrap();
    let serving = restored.issue(&["cp"], Term::of(DAY), now()).unwrap();
    assert_eq!(verify(&authority, &serving.certificate, "cp"), Ok(()));
}

#[test]
fn host_name_with_a_space_is_rejected() {
    let authority = ServingAuthority::generate(now()).unwrap();
    assert!(matches!(
        authority.issue(&["c p"], Term::of(DAY), now()),
        Err(Error::NameNotAllowed { .. })
    ));
}

#[test]
fn debug_output_does_not_contain_the_private_key() {
    let serving = ServingAuthority::generate(now())
        .unwrap()
        .issue(&["cp"], Term::of(DAY), now())
        .unwrap();
    let secret = secret_bytes_as_text(serving.private_key().secret_pkcs8_der());
    assert!(!format!("{serving:?}").contains(&secret));
}
