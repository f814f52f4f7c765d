//! Tests of the responses to subscriptions, ACKs, NACKs and changes of the material.

use kermode_protocol::ads::Status;

use super::*;

const IDENTITY: &str = "identity_cert:secret:default";
const TRUST_BUNDLE: &str = "mesh_ca:secret:default";

fn mk_material(version: u64) -> SecretMaterial {
    SecretMaterial {
        version,
        chain: format!("chain {version}"),
        key: "key".into(),
        roots: "roots".into(),
    }
}

fn mk_stream() -> SdsStream {
    SdsStream::new(SdsSecretNames::of(&MeshName::new("default")))
}

fn mk_request(names: &[&str], nonce: &str) -> DiscoveryRequest {
    DiscoveryRequest {
        resource_names: names.iter().map(ToString::to_string).collect(),
        response_nonce: nonce.to_owned(),
        ..DiscoveryRequest::default()
    }
}

fn decode_secrets(response: &DiscoveryResponse) -> Vec<Secret> {
    response
        .resources
        .iter()
        .map(|any| Secret::decode(any.value.clone()).unwrap())
        .collect()
}

#[test]
fn both_secrets_are_served_by_name() {
    let mut stream = mk_stream();
    let material = mk_material(1);
    let response = stream
        .on_request(mk_request(&[IDENTITY, TRUST_BUNDLE], ""), Some(&material))
        .unwrap();
    let [identity, trust_bundle] = decode_secrets(&response).try_into().unwrap();
    assert_eq!(
        (identity.name.as_str(), trust_bundle.name.as_str()),
        (IDENTITY, TRUST_BUNDLE)
    );
    let Some(SecretKind::TlsCertificate(certificate)) = identity.kind else {
        panic!("the identity secret has no certificate")
    };
    assert_eq!(certificate.certificate_chain.unwrap().inline_bytes, b"chain 1");
    assert_eq!(certificate.private_key.unwrap().inline_bytes, b"key");
    let Some(SecretKind::ValidationContext(context)) = trust_bundle.kind else {
        panic!("the trust bundle has no validation context")
    };
    assert_eq!(context.trusted_ca.unwrap().inline_bytes, b"roots");
}

#[test]
fn ack_gets_no_response_and_a_renewal_is_sent_once() {
    let mut stream = mk_stream();
    let first = stream
        .on_request(mk_request(&[IDENTITY], ""), Some(&mk_material(1)))
        .unwrap();
    assert!(
        stream
            .on_request(mk_request(&[IDENTITY], &first.nonce), Some(&mk_material(1)))
            .is_none()
    );
    let second = stream.on_material(Some(&mk_material(2))).unwrap();
    assert_ne!(first.nonce, second.nonce);
    assert!(stream.on_material(Some(&mk_material(2))).is_none());
}

#[test]
fn rejected_secret_is_not_sent_again_before_it_changes() {
    let mut stream = mk_stream();
    let first = stream
        .on_request(mk_request(&[IDENTITY], ""), Some(&mk_material(1)))
        .unwrap();
    let mut nack = mk_request(&[IDENTITY], &first.nonce);
    nack.error_detail = Some(Status {
        code: 13,
        message: "invalid key".into(),
    });
    assert!(stream.on_request(nack, Some(&mk_material(1))).is_none());
    assert!(stream.on_material(Some(&mk_material(2))).is_some());
}

#[test]
fn subscription_before_the_first_certificate_gets_a_response_once_it_is_issued() {
    let mut stream = mk_stream();
    assert!(!stream.envoy_waits_for_secrets());
    assert!(stream.on_request(mk_request(&[IDENTITY], ""), None).is_none());
    assert!(stream.envoy_waits_for_secrets());
    assert!(stream.on_material(Some(&mk_material(1))).is_some());
    assert!(!stream.envoy_waits_for_secrets());
}

#[test]
fn ack_of_an_earlier_response_is_ignored() {
    let mut stream = mk_stream();
    let first = stream
        .on_request(mk_request(&[IDENTITY], ""), Some(&mk_material(1)))
        .unwrap();
    let second = stream.on_material(Some(&mk_material(2))).unwrap();
    assert!(
        stream
            .on_request(mk_request(&[TRUST_BUNDLE], &first.nonce), Some(&mk_material(2)))
            .is_none()
    );
    // The ignored ACK has not changed the subscription, so the ACK of the second response gets no response.
    assert!(
        stream
            .on_request(mk_request(&[IDENTITY], &second.nonce), Some(&mk_material(2)))
            .is_none()
    );
}

#[test]
fn secret_of_another_mesh_is_not_served() {
    let mut stream = mk_stream();
    assert!(
        stream
            .on_request(
                mk_request(&["identity_cert:secret:other"], ""),
                Some(&mk_material(1))
            )
            .is_none()
    );
}

#[test]
fn debug_of_a_secret_hides_the_key() {
    let names = SdsSecretNames::of(&MeshName::new("default"));
    let secret = names.secret(IDENTITY, &mk_material(1)).unwrap();
    // `Debug` of the key's bytes is `[107, 101, 121]`. The first byte alone must not occur either.
    let bytes = format!("{:?}", b"key");
    let text = format!("{secret:?} {:?}", secret.kind);
    assert!(
        text.contains(IDENTITY) && !text.contains("107") && !text.contains(&bytes),
        "{text}"
    );
}
