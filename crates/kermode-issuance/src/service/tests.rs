//! Tests of the issuance service over TLS.

mod hostile;
mod limits;
pub(crate) mod log;
mod roots;
mod server;

use std::time::Duration;

use kermode_identity::{Entitlement, WorkloadKey};
use kermode_protocol::certificates::IssueCertificateRequest;
use rustls_pki_types::CertificateDer;

use self::server::{CLOCK_TOLERANCE, Server, mk_request};
use crate::authentication::tests::{SERVICE_ACCOUNT, VALID_SIGNATURE, mk_token};

/// Makes the token of the Pod `shop/web` with the UID `1`.
fn web_token() -> String {
    mk_token(SERVICE_ACCOUNT, "web", "1", VALID_SIGNATURE)
}

#[tokio::test]
async fn proxy_gets_a_certificate_with_the_names_of_its_dataplane() {
    let server = Server::start().await;
    let key = WorkloadKey::generate().expect("a key");
    let issued = server.issue(&web_token(), mk_request(&key, "web.shop")).await;
    let issued = issued.expect("a certificate");
    // The first generation of the CA signed the certificate, and is the only root.
    assert_eq!((issued.signer, issued.roots_der.len()), (1, 1));
    let validity = Duration::from_hours(1) + CLOCK_TOLERANCE;
    assert_eq!(
        u64::try_from(issued.not_after - issued.not_before),
        Ok(validity.as_secs())
    );
    let leaf: CertificateDer<'_> = issued.chain_der[0].clone().into();
    let web = kermode_model::ObjectKey::new("shop", "web");
    let (dataplane, _) = server
        .index
        .dataplane_and_mesh(&web)
        .expect("the Dataplane is in the index");
    for uri in Entitlement::of(&dataplane).uris() {
        let found = leaf.windows(uri.len()).any(|window| window == uri.as_bytes());
        assert!(found, "{uri} is not in the certificate");
    }
    let scheme = b"kermode-proxy";
    let has_proxy_name = leaf.windows(scheme.len()).any(|window| window == scheme);
    assert!(
        !has_proxy_name,
        "the name that binds the signing request to the proxy is in the certificate"
    );
    assert_eq!(server.issued_count(), 1);
}

#[tokio::test]
async fn request_for_another_mesh_or_for_a_mesh_without_mtls_is_denied() {
    let server = Server::start().await;
    let key = WorkloadKey::generate().expect("a key");
    let other_mesh = IssueCertificateRequest {
        mesh: "other".to_owned(),
        ..mk_request(&key, "web.shop")
    };
    let denied = server
        .issue(&web_token(), other_mesh)
        .await
        .expect_err("a mesh other than the proxy's");
    assert_eq!(denied.code(), tonic::Code::NotFound);
    server
        .index
        .write()
        .apply_mesh(kermode_model::Mesh::new("default"));
    let denied = server.issue(&web_token(), mk_request(&key, "web.shop")).await;
    let denied = denied.expect_err("mTLS is off");
    assert_eq!(denied.code(), tonic::Code::FailedPrecondition);
    assert_eq!(server.denial_count("DataplaneNotFound"), 1);
    assert_eq!(server.denial_count("NoMtls"), 1);
}
