//! Tests of the certificates that a mesh's CA signs. x509-parser and rustls read the certificates.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use kermode_model::{DEFAULT_CLOCK_TOLERANCE, Dataplane};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SanType,
};
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{PrivatePkcs8KeyDer, UnixTime};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use super::*;
use crate::spiffe::tests::mk_dataplane;
use crate::workload::tests::secret_bytes_as_text;
use crate::{TrustBundle, WorkloadKey};

const HOUR: Duration = Duration::from_hours(1);

/// Simulated current time.
fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_hours(500_000)
}

fn mk_authority() -> Authority {
    Authority::generate(&MeshName::new("default"), now()).unwrap()
}

fn mk_web_dataplane() -> Dataplane {
    mk_dataplane(&[&[
        ("kuma.io/service", "web_demo_svc_80"),
        ("app.kubernetes.io/name", "web"),
    ]])
}

fn mk_csr(key: &KeyPair) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.serialize_request(key).unwrap().der().to_vec()
}

fn sign(authority: &Authority, csr: &[u8]) -> Result<IssuedCertificate, Error> {
    authority.sign_csr(
        csr,
        &Entitlement::of(&mk_web_dataplane()),
        Term::of(24 * HOUR),
        now(),
    )
}

/// Verifies a certificate at `time` with rustls, as a server verifies the certificate of its client.
fn verify(bundle: &TrustBundle, issued: &IssuedCertificate, time: SystemTime) -> Result<(), rustls::Error> {
    let mut roots = RootCertStore::empty();
    for root in bundle.roots() {
        roots.add(root.clone()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider)
        .build()
        .unwrap();
    let time = UnixTime::since_unix_epoch(time.duration_since(UNIX_EPOCH).unwrap());
    verifier
        .verify_client_cert(&issued.chain[0], &issued.chain[1..], time)
        .map(|_| ())
}

fn uris(certificate: &X509Certificate<'_>) -> Vec<String> {
    let names = certificate.subject_alternative_name().unwrap().unwrap();
    let uri = |name: &GeneralName<'_>| match name {
        GeneralName::URI(uri) => (*uri).to_owned(),
        other => panic!("unexpected name {other}"),
    };
    names.value.general_names.iter().map(uri).collect()
}

#[test]
fn workload_certificate_verifies_against_the_mesh_root_only_within_its_validity() {
    let authority = mk_authority();
    let issued = sign(&authority, &WorkloadKey::generate().unwrap().csr_der().unwrap()).unwrap();
    let bundle = TrustBundle::new([authority.certificate().clone()]);
    assert_eq!(verify(&bundle, &issued, now()), Ok(()));
    let one_second = Duration::from_secs(1);
    assert_eq!(verify(&bundle, &issued, now() - DEFAULT_CLOCK_TOLERANCE), Ok(()));
    assert!(verify(&bundle, &issued, now() - DEFAULT_CLOCK_TOLERANCE - one_second).is_err());
    assert!(verify(&bundle, &issued, now() + 24 * HOUR + one_second).is_err());
}

#[test]
fn certificate_of_another_authority_of_the_same_name_does_not_verify() {
    let issued = sign(
        &mk_authority(),
        &WorkloadKey::generate().unwrap().csr_der().unwrap(),
    )
    .unwrap();
    let other = TrustBundle::new([mk_authority().certificate().clone()]);
    assert!(verify(&other, &issued, now()).is_err());
}

#[test]
fn certificates_of_both_authorities_verify_during_a_rotation() {
    let (old, new) = (mk_authority(), mk_authority());
    let bundle = TrustBundle::new([old.certificate().clone(), new.certificate().clone()]);
    for authority in [old, new] {
        let issued = sign(&authority, &WorkloadKey::generate().unwrap().csr_der().unwrap()).unwrap();
        assert_eq!(verify(&bundle, &issued, now()), Ok(()));
    }
}

/// Returns a signing request with a new key and the contents that `change` adds.
fn mk_modified_csr(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    params.serialize_request(&key).unwrap().der().to_vec()
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

/// Change of a signing request.
type Change = Box<dyn FnOnce(&mut CertificateParams)>;

#[test]
fn request_beyond_the_entitlement_is_rejected() {
    let authority = mk_authority();
    let own_uri = "spiffe://default/web_demo_svc_80";
    let with_names = |names: Vec<SanType>| -> Change { Box::new(|params| params.subject_alt_names = names) };
    let requests: [(&str, Change); 9] = [
        (
            "another service",
            with_names(vec![uri("spiffe://default/admin_demo_svc_80")]),
        ),
        (
            "its own service and another service",
            with_names(vec![uri(own_uri), uri("spiffe://default/admin")]),
        ),
        (
            "another mesh",
            with_names(vec![uri("spiffe://other/web_demo_svc_80")]),
        ),
        (
            "another tag",
            with_names(vec![uri("kuma://app.kubernetes.io/name/admin")]),
        ),
        (
            "a host name",
            with_names(vec![SanType::DnsName("admin.default".try_into().unwrap())]),
        ),
        (
            "an address",
            with_names(vec![SanType::IpAddress([10, 0, 0, 1].into())]),
        ),
        (
            "a subject",
            Box::new(|params| params.distinguished_name.push(rcgen::DnType::CommonName, "admin")),
        ),
        (
            "the basic constraints extension",
            Box::new(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
        ),
        (
            "the key usage of a CA",
            Box::new(|params| params.key_usages.push(KeyUsagePurpose::KeyCertSign)),
        ),
    ];
    for (description, change) in requests {
        let result = sign(&authority, &mk_modified_csr(change));
        assert!(
            matches!(result, Err(Error::RequestNotAllowed { .. })),
            "{description}: {result:?}"
        );
    }
    assert!(sign(&authority, &mk_modified_csr(with_names(vec![uri(own_uri)]))).is_ok());
}

#[test]
fn request_is_accepted_only_from_the_proxy_that_made_it() {
    let key = WorkloadKey::generate().unwrap();
    let read = |csr: Vec<u8>| SigningRequest::read(&csr).unwrap();
    let bound = read(key.csr_der_of("web-0.shop").unwrap());
    assert!(bound.check_bound_to("web-0.shop").is_ok());
    for other in ["web-1.shop", "web-0.shop2", "web-0", ""] {
        assert!(
            matches!(bound.check_bound_to(other), Err(Error::RequestOfAnotherProxy)),
            "{other}"
        );
    }
    let unbound = read(key.csr_der().unwrap());
    assert!(matches!(
        unbound.check_bound_to("web-0.shop"),
        Err(Error::RequestUnbound)
    ));
    let two_proxies = vec![uri("kermode-proxy:web-0.shop"), uri("kermode-proxy:web-1.shop")];
    let bound_to_both = read(mk_modified_csr(|params| params.subject_alt_names = two_proxies));
    assert!(matches!(
        bound_to_both.check_bound_to("web-0.shop"),
        Err(Error::RequestOfAnotherProxy)
    ));
}

#[test]
fn certificate_has_exactly_the_names_of_the_entitlement() {
    let key = WorkloadKey::generate().unwrap();
    let issued = sign(&mk_authority(), &key.csr_der_of("web-0.shop").unwrap()).unwrap();
    let (_, certificate) = X509Certificate::from_der(&issued.chain[0]).unwrap();
    assert_eq!(uris(&certificate), Entitlement::of(&mk_web_dataplane()).uris());
    assert_eq!(certificate.subject().iter().count(), 0);
    assert!(!certificate.is_ca());
    let usage = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.server_auth && usage.client_auth && usage.other.is_empty());
    let key_pair = KeyPair::from_pem(&key.private_key_pem()).unwrap();
    assert_eq!(
        certificate.public_key().raw,
        rcgen::PublicKeyData::subject_public_key_info(&key_pair)
    );
}

#[test]
fn serial_numbers_differ_for_the_same_key() {
    let authority = mk_authority();
    let csr = WorkloadKey::generate().unwrap().csr_der().unwrap();
    let serial = || {
        let issued = sign(&authority, &csr).unwrap();
        let (_, certificate) = X509Certificate::from_der(&issued.chain[0]).unwrap();
        certificate.raw_serial().to_vec()
    };
    assert_ne!(serial(), serial());
}

#[test]
fn authority_certificate_is_a_ten_year_root_with_the_names_of_its_mesh() {
    let authority = mk_authority();
    let (_, root) = X509Certificate::from_der(authority.certificate()).unwrap();
    assert_eq!(root.subject().to_string(), "O=Kuma, OU=Mesh, CN=default");
    assert_eq!(uris(&root), ["spiffe://default"]);
    let constraints = root.basic_constraints().unwrap().unwrap();
    assert!(constraints.critical && constraints.value.ca);
    assert_eq!(constraints.value.path_len_constraint, Some(0));
    let usage = root.key_usage().unwrap().unwrap().value;
    assert!(usage.key_cert_sign() && usage.crl_sign());
    assert_eq!(root.verify_signature(None), Ok(()));
    let years = authority
        .validity()
        .not_after
        .duration_since(now())
        .unwrap()
        .as_secs()
        / (365 * 24 * 3600);
    assert_eq!(years, 10);
}

#[test]
fn certificate_of_an_authority_restored_from_pem_verifies_against_the_original_root() {
    let authority = mk_authority();
    let restored = Authority::from_pem(&authority.certificate_pem(), &authority.key_pem()).unwrap();
    assert_eq!(restored.certificate(), authority.certificate());
    let issued = sign(&restored, &WorkloadKey::generate().unwrap().csr_der().unwrap()).unwrap();
    assert_eq!(
        verify(
            &TrustBundle::new([authority.certificate().clone()]),
            &issued,
            now()
        ),
        Ok(())
    );
}

#[test]
fn authority_with_the_key_of_another_authority_is_rejected() {
    let error =
        Authority::from_pem(&mk_authority().certificate_pem(), &mk_authority().key_pem()).unwrap_err();
    assert!(matches!(error, Error::KeyMismatch { .. }), "{error}");
}

#[test]
fn leaf_is_not_accepted_as_an_authority() {
    let key = WorkloadKey::generate().unwrap();
    let leaf = sign(&mk_authority(), &key.csr_der().unwrap()).unwrap();
    let error = Authority::from_pem(&leaf.chain_pem(), &key.private_key_pem()).unwrap_err();
    assert!(matches!(error, Error::NotAuthority { .. }), "{error}");
}

#[test]
fn request_with_a_corrupted_signature_is_rejected() {
    let csr = WorkloadKey::generate().unwrap().csr_der().unwrap();
    // The signature is at the end of the request.
    for index in [csr.len() - 1, csr.len() - 20] {
        let mut corrupted = csr.clone();
        corrupted[index] ^= 1;
        let error = sign(&mk_authority(), &corrupted).unwrap_err();
        assert!(matches!(error, Error::RequestSignature), "{error}");
    }
}

#[test]
fn request_with_a_replaced_key_is_rejected() {
    let (attacker, victim) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let mut csr = mk_csr(&attacker);
    let attacker_key = rcgen::PublicKeyData::der_bytes(&attacker);
    let victim_key = rcgen::PublicKeyData::der_bytes(&victim);
    let length = attacker_key.len();
    let start = csr
        .windows(length)
        .position(|window| window == attacker_key)
        .unwrap();
    csr[start..start + length].copy_from_slice(victim_key);
    assert!(matches!(
        sign(&mk_authority(), &csr),
        Err(Error::RequestSignature)
    ));
}

#[test]
fn rsa_and_p384_keys_are_rejected_and_ed25519_is_accepted() {
    let authority = mk_authority();
    let rsa = include_bytes!("rsa.csr.pem");
    assert!(matches!(sign(&authority, rsa), Err(Error::RequestKey { .. })));
    let p384 = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    assert!(matches!(
        sign(&authority, &mk_csr(&p384)),
        Err(Error::RequestKey { .. })
    ));
    let ed25519 = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    assert!(sign(&authority, &mk_csr(&ed25519)).is_ok());
}

#[test]
fn request_in_pem_is_accepted() {
    let key = KeyPair::generate().unwrap();
    let pem = crate::pem::encode("CERTIFICATE REQUEST", &mk_csr(&key));
    assert!(sign(&mk_authority(), pem.as_bytes()).is_ok());
}

#[test]
fn malformed_request_and_request_with_trailing_bytes_are_rejected() {
    let mut csr = WorkloadKey::generate().unwrap().csr_der().unwrap();
    csr.push(0);
    for bytes in [csr.as_slice(), b"", b"-----BEGIN", &[0x30; 10_000]] {
        assert!(matches!(
            sign(&mk_authority(), bytes),
            Err(Error::RequestUnreadable { .. })
        ));
    }
}

#[test]
fn dataplane_without_a_service_gets_no_certificate() {
    let csr = WorkloadKey::generate().unwrap().csr_der().unwrap();
    let entitlement = Entitlement::of(&mk_dataplane(&[]));
    let error = mk_authority()
        .sign_csr(&csr, &entitlement, Term::of(HOUR), now())
        .unwrap_err();
    assert!(matches!(error, Error::NoService), "{error}");
}

#[test]
fn certificate_does_not_outlive_its_authority_and_an_expired_authority_does_not_sign() {
    let authority = mk_authority();
    let csr = WorkloadKey::generate().unwrap().csr_der().unwrap();
    let end = authority.validity().not_after;
    let entitlement = Entitlement::of(&mk_web_dataplane());
    let issued = authority
        .sign_csr(&csr, &entitlement, Term::of(24 * HOUR), end - HOUR)
        .unwrap();
    assert_eq!(issued.validity.not_after, end);
    let error = authority
        .sign_csr(&csr, &entitlement, Term::of(HOUR), end + HOUR)
        .unwrap_err();
    assert!(matches!(error, Error::AuthorityNotValid { .. }), "{error}");
}

#[test]
fn error_names_the_tag_that_is_not_allowed_in_a_certificate() {
    let dataplane = mk_dataplane(&[&[("kuma.io/service", "web"), ("team", "größe")]]);
    let csr = WorkloadKey::generate().unwrap().csr_der().unwrap();
    let error = mk_authority()
        .sign_csr(&csr, &Entitlement::of(&dataplane), Term::of(HOUR), now())
        .unwrap_err();
    assert!(error.to_string().contains("kuma://team/größe"), "{error}");
}

#[test]
fn debug_hides_the_key() {
    let authority = mk_authority();
    let text = format!("{authority:?}");
    let key = PrivatePkcs8KeyDer::from_pem_slice(authority.key_pem().as_bytes()).unwrap();
    assert!(text.contains("CN=default"), "{text}");
    assert!(
        !text.contains(&secret_bytes_as_text(key.secret_pkcs8_der())),
        "{text}"
    );
}
