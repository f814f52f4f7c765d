//! Attempts to obtain the certificate of another proxy. Each attempt is denied, logged without the token, and counted.

use kermode_identity::WorkloadKey;
use kermode_model::ObjectKey;
use kermode_protocol::certificates::IssueCertificateRequest;
use tonic::Code;

use super::log::CapturedLog;
use super::server::{Server, mk_request};
use super::web_token;
use crate::authentication::tests::{
    SERVICE_ACCOUNT, VALID_SIGNATURE, mk_pod_of, mk_token, mk_token_for, mk_token_in,
};

/// Sends a request. Asserts that the service denies the request with `code`, and logs and counts `reason`. If the token
/// does not authenticate the caller as the named proxy, a stream of roots with the same token and name must be denied
/// too.
async fn assert_denied(
    server: &Server,
    token: &str,
    request: IssueCertificateRequest,
    code: Code,
    reason: &str,
) {
    let log = CapturedLog::start();
    let before = server.denial_count(reason);
    let name = request.name.clone();
    let outcome = server.issue(token, request).await;
    let status = outcome.expect_err(&format!("{reason}: a certificate was issued"));
    assert_eq!(status.code(), code, "{reason}: {status}");
    assert_eq!(server.denial_count(reason), before + 1, "{reason}");
    let lines = log.take();
    let line = lines
        .iter()
        .find(|line| line.contains(&format!("reason={reason}")));
    assert!(line.is_some(), "{reason} is not in the log: {lines:?}");
    let status_and_log = format!("{status} {lines:?}");
    // For a token without a payload, the check looks for `Bearer`, with which the header value begins.
    let token_payload = token.rsplit('.').nth(1).unwrap_or("Bearer");
    assert!(
        !status_and_log.contains(token_payload),
        "the token leaked: {status_and_log}"
    );
    if matches!(code, Code::Unauthenticated | Code::PermissionDenied) {
        let watched = server.watch_roots(token, &name).await;
        assert_eq!(
            watched
                .expect_err("roots were sent to an unauthenticated caller")
                .code(),
            code,
            "{reason}"
        );
    }
    assert_eq!(server.issued_count(), 0);
}

/// Makes a request of the named proxy, with a valid signing request for a new key.
fn mk_request_for_new_key(name: &str) -> IssueCertificateRequest {
    mk_request(&WorkloadKey::generate().expect("a key"), name)
}

#[tokio::test]
async fn request_with_the_name_of_another_pod_is_denied() {
    let server = Server::start().await;
    assert_denied(
        &server,
        &web_token(),
        mk_request_for_new_key("other.shop"),
        Code::Unauthenticated,
        "TokenOfOtherProxy",
    )
    .await;
    assert_denied(
        &server,
        &web_token(),
        mk_request_for_new_key("web.other"),
        Code::Unauthenticated,
        "TokenOfOtherProxy",
    )
    .await;
}

#[tokio::test]
async fn invalid_names_are_denied() {
    let server = Server::start().await;
    for name in ["", "web", ".", "web.", ".shop"] {
        assert_denied(
            &server,
            &web_token(),
            mk_request_for_new_key(name),
            Code::InvalidArgument,
            "InvalidName",
        )
        .await;
    }
}

#[tokio::test]
async fn token_that_does_not_prove_the_claimed_name_is_denied() {
    let server = Server::start().await;
    // A token that is not bound to a Pod: `e30` is the Base64 of `{}`.
    let unbound = format!("e30.e30.{VALID_SIGNATURE}");
    let other_namespace = mk_token_in("attic", SERVICE_ACCOUNT, "web", "1", VALID_SIGNATURE);
    for (token, reason) in [
        ("", "NoToken"),
        ("garbage", "TokenNotBound"),
        (&unbound, "TokenNotBound"),
        (&mk_token(SERVICE_ACCOUNT, "web", "1", "forged"), "InvalidToken"),
        (&mk_token(SERVICE_ACCOUNT, "web", "1", "expired"), "InvalidToken"),
        (&other_namespace, "TokenOfOtherProxy"),
    ] {
        assert_denied(
            &server,
            token,
            mk_request_for_new_key("web.shop"),
            Code::Unauthenticated,
            reason,
        )
        .await;
    }
    let other_account = mk_token("admin", "web", "1", VALID_SIGNATURE);
    assert_denied(
        &server,
        &other_account,
        mk_request_for_new_key("web.shop"),
        Code::PermissionDenied,
        "WrongServiceAccount",
    )
    .await;
}

#[tokio::test]
async fn token_for_the_audience_of_another_service_is_denied() {
    let server = Server::start().await;
    for audience in ["vault", "https://kubernetes.default.svc.cluster.local"] {
        assert_denied(
            &server,
            &mk_token_for(&[audience]),
            mk_request_for_new_key("web.shop"),
            Code::Unauthenticated,
            "WrongAudience",
        )
        .await;
    }
}

#[tokio::test]
async fn token_of_a_deleted_pod_is_denied_for_a_new_pod_of_the_same_name() {
    let server = Server::start().await;
    server.index.write().apply_pod(mk_pod_of("web", "10.0.0.3", "3"));
    let outcome = server
        .issue(&web_token(), mk_request_for_new_key("web.shop"))
        .await;
    assert_eq!(
        outcome.expect_err("the index has another Pod of the name").code(),
        Code::NotFound
    );
    assert_eq!(server.denial_count("UidMismatch"), 1);
    server.index.write().remove_pod(&ObjectKey::new("shop", "web"));
    let outcome = server
        .issue(&web_token(), mk_request_for_new_key("web.shop"))
        .await;
    assert_eq!(
        outcome.expect_err("the index has no Pod of the name").code(),
        Code::NotFound
    );
    assert_eq!(server.denial_count("UnknownProxy"), 1);
    assert_eq!(server.issued_count(), 0);
}

#[tokio::test]
async fn signing_request_that_names_another_proxy_or_none_is_denied() {
    let server = Server::start().await;
    // The intercepted signing request is complete, and its signature is valid.
    let intercepted = mk_request_for_new_key("other.shop").csr;
    let replayed = IssueCertificateRequest {
        csr: intercepted,
        ..mk_request_for_new_key("web.shop")
    };
    assert_denied(
        &server,
        &web_token(),
        replayed,
        Code::InvalidArgument,
        "SigningRequestProxy",
    )
    .await;
    // A signing request that names no proxy could come from any proxy.
    let unbound_csr = WorkloadKey::generate().expect("a key").csr_der();
    let unbound = IssueCertificateRequest {
        csr: unbound_csr.expect("a signing request"),
        ..mk_request_for_new_key("web.shop")
    };
    assert_denied(
        &server,
        &web_token(),
        unbound,
        Code::InvalidArgument,
        "SigningRequestProxy",
    )
    .await;
}

/// Sends signing requests that OpenSSL made for the proxy `web.shop`. Each file is named after the only defect of its
/// signing request.
#[tokio::test]
async fn signing_requests_with_additional_names_or_unsupported_key_types_are_denied() {
    let server = Server::start().await;
    for (csr, reason) in [
        (
            &include_bytes!("requests/other-service.pem")[..],
            "SigningRequestNotAllowed",
        ),
        (
            include_bytes!("requests/host-name.pem"),
            "SigningRequestNotAllowed",
        ),
        (
            include_bytes!("requests/authority.pem"),
            "SigningRequestNotAllowed",
        ),
        (include_bytes!("requests/subject.pem"), "SigningRequestNotAllowed"),
        (include_bytes!("requests/rsa2048.pem"), "SigningRequestKey"),
        (include_bytes!("requests/rsa1024.pem"), "SigningRequestKey"),
        (include_bytes!("requests/p192.pem"), "SigningRequestKey"),
        (include_bytes!("requests/p384.pem"), "SigningRequestKey"),
    ] {
        let request = IssueCertificateRequest {
            csr: csr.to_vec(),
            ..mk_request_for_new_key("web.shop")
        };
        assert_denied(&server, &web_token(), request, Code::InvalidArgument, reason).await;
    }
}

#[tokio::test]
async fn malformed_huge_and_tampered_signing_requests_are_denied() {
    let server = Server::start().await;
    let mut tampered = mk_request_for_new_key("web.shop").csr;
    *tampered.last_mut().expect("a signing request that is not empty") ^= 1;
    for (csr, reason) in [
        (Vec::new(), "SigningRequestUnreadable"),
        (b"garbage".to_vec(), "SigningRequestUnreadable"),
        (vec![0x30; 9 * 1024], "SigningRequestUnreadable"),
        (tampered, "SigningRequestSignature"),
    ] {
        let request = IssueCertificateRequest {
            csr,
            ..mk_request_for_new_key("web.shop")
        };
        assert_denied(&server, &web_token(), request, Code::InvalidArgument, reason).await;
    }
    let huge = IssueCertificateRequest {
        csr: vec![0x30; 1024 * 1024],
        ..mk_request_for_new_key("web.shop")
    };
    assert_denied(&server, &web_token(), huge, Code::OutOfRange, "MessageUnreadable").await;
}
