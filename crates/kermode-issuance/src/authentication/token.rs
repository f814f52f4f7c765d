//! Reads the unverified claims of a service-account token. A token without the expected claims is rejected without a
//! TokenReview.

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use kermode_model::ObjectKey;
use serde::Deserialize;

/// Size limit of a token, in bytes. A service-account token has about 1 KiB.
const MAX_TOKEN_SIZE: usize = 16 * 1024;

/// Pod that a token claims to be bound to, and audiences that it claims to be for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TokenClaims {
    pub(super) pod: ObjectKey,
    pub(super) pod_uid: Arc<str>,
    pub(super) audiences: Vec<String>,
}

/// Payload of a service-account token, reduced to the claims in [`TokenClaims`]
/// (<https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/#schema-for-service-account-private-claims>).
#[derive(Deserialize)]
struct Payload {
    #[serde(rename = "aud", default)]
    audiences: Vec<String>,
    #[serde(rename = "kubernetes.io")]
    kubernetes: PrivateClaims,
}

#[derive(Deserialize)]
struct PrivateClaims {
    namespace: Arc<str>,
    pod: PodReference,
}

#[derive(Deserialize)]
struct PodReference {
    name: Arc<str>,
    uid: Arc<str>,
}

/// Returns the bearer token in the metadata `authorization`; `None` if the token is missing, empty or too long, or
/// contains blanks. With blanks around it, one token would have several values, and limits on callers count by value
/// ([`kermode_limit::caller`]).
pub(super) fn bearer(metadata: &http::HeaderMap) -> Option<&str> {
    let value = metadata.get(http::header::AUTHORIZATION)?.to_str().ok()?;
    let token = value.strip_prefix("Bearer ")?;
    let has_valid_length = (1..=MAX_TOKEN_SIZE).contains(&token.len());
    (has_valid_length && token.bytes().all(|byte| byte.is_ascii_graphic())).then_some(token)
}

impl TokenClaims {
    /// Decodes a JWT without verifying its signature. Returns `None` if the text is not a JWT, or if the token is not
    /// bound to a Pod.
    pub(super) fn read(token: &str) -> Option<Self> {
        let mut parts = token.split('.');
        let (_header, payload, _signature) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() {
            return None;
        }
        let payload = BASE64_URL_SAFE_NO_PAD.decode(payload).ok()?;
        let Payload {
            audiences,
            kubernetes,
        } = serde_json::from_slice(&payload).ok()?;
        Some(Self {
            pod: ObjectKey::new(kubernetes.namespace, kubernetes.pod.name),
            pod_uid: kubernetes.pod.uid,
            audiences,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bearer_token_that_is_not_too_long_is_read() {
        let read = |value: &str| {
            let mut metadata = http::HeaderMap::new();
            metadata.insert("authorization", value.parse().expect("a header value"));
            bearer(&metadata).map(str::to_owned)
        };
        assert_eq!(read("Bearer abc").as_deref(), Some("abc"));
        for invalid in [
            "Basic abc",
            "Bearer ",
            "Bearer  abc",
            "Bearer abc\t",
            "Bearer a b",
        ] {
            assert_eq!(read(invalid), None, "{invalid:?}");
        }
        assert_eq!(read(&format!("Bearer {}", "x".repeat(MAX_TOKEN_SIZE + 1))), None);
        assert_eq!(bearer(&http::HeaderMap::new()), None);
    }

    #[test]
    fn claims_are_read_from_tokens_that_are_bound_to_a_pod() {
        // Header `{}` and signature `sig`.
        let jwt = |payload: &str| format!("e30.{}.c2ln", BASE64_URL_SAFE_NO_PAD.encode(payload));
        let bound =
            jwt(r#"{"aud":["mesh"],"kubernetes.io":{"namespace":"shop","pod":{"name":"web-0","uid":"u"}}}"#);
        let claims = TokenClaims {
            pod: ObjectKey::new("shop", "web-0"),
            pod_uid: "u".into(),
            audiences: vec!["mesh".to_owned()],
        };
        assert_eq!(TokenClaims::read(&bound), Some(claims));
        let legacy = jwt(r#"{"kubernetes.io/serviceaccount/namespace":"shop"}"#);
        let unbound = jwt(r#"{"kubernetes.io":{"namespace":"shop"}}"#);
        for without_claims in ["", "a.b", "a.!.c", &legacy, &unbound, &format!("{bound}.more")] {
            assert_eq!(TokenClaims::read(without_claims), None, "{without_claims:?}");
        }
    }
}
