//! What a token says of itself. None of it is proven: it only saves the API server from being asked about what cannot
//! be right, and depends on nothing but the request, so that the answer tells a stranger nothing.

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use kermode_model::ObjectKey;
use serde::Deserialize;

/// The longest token worth looking at, in bytes.
const MAX_TOKEN: usize = 16 * 1024;

/// The Pod that a token claims to be bound to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Claimed {
    pub(super) pod: ObjectKey,
    pub(super) uid: Arc<str>,
}

/// The payload of a service-account token, as far as it matters
/// (<https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/#schema-for-service-account-private-claims>).
#[derive(Deserialize)]
struct Payload {
    #[serde(rename = "kubernetes.io")]
    kubernetes: Private,
}

#[derive(Deserialize)]
struct Private {
    namespace: Arc<str>,
    pod: Reference,
}

#[derive(Deserialize)]
struct Reference {
    name: Arc<str>,
    uid: Arc<str>,
}

/// The token of the `authorization` metadata.
pub(super) fn bearer(metadata: &http::HeaderMap) -> Option<&str> {
    let value = metadata.get(http::header::AUTHORIZATION)?.to_str().ok()?;
    let token = value.strip_prefix("Bearer ")?.trim();
    (!token.is_empty() && token.len() <= MAX_TOKEN).then_some(token)
}

impl Claimed {
    /// Reads a JWT without checking its signature; `None` when it is none, or not bound to a Pod.
    pub(super) fn read(token: &str) -> Option<Self> {
        let mut parts = token.split('.');
        let (_header, payload, _signature) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() {
            return None;
        }
        let payload = BASE64_URL_SAFE_NO_PAD.decode(payload).ok()?;
        let Payload { kubernetes } = serde_json::from_slice(&payload).ok()?;
        Some(Self {
            pod: ObjectKey::new(kubernetes.namespace, kubernetes.pod.name),
            uid: kubernetes.pod.uid,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bearer_token_of_sane_size_counts() {
        let token = |value: &str| {
            let mut metadata = http::HeaderMap::new();
            metadata.insert("authorization", value.parse().expect("a header value"));
            bearer(&metadata).map(str::to_owned)
        };
        assert_eq!(token("Bearer abc").as_deref(), Some("abc"));
        assert_eq!(token("Basic abc"), None);
        assert_eq!(token("Bearer "), None);
        assert_eq!(token(&format!("Bearer {}", "x".repeat(MAX_TOKEN + 1))), None);
        assert_eq!(bearer(&http::HeaderMap::new()), None);
    }

    #[test]
    fn a_token_names_its_pod_or_is_none() {
        let jwt = |payload: &str| format!("e30.{}.c2ln", BASE64_URL_SAFE_NO_PAD.encode(payload));
        let bound = jwt(r#"{"kubernetes.io":{"namespace":"shop","pod":{"name":"web-0","uid":"u"}}}"#);
        let claimed = Claimed {
            pod: ObjectKey::new("shop", "web-0"),
            uid: "u".into(),
        };
        assert_eq!(Claimed::read(&bound), Some(claimed));
        let legacy = jwt(r#"{"kubernetes.io/serviceaccount/namespace":"shop"}"#);
        let unbound = jwt(r#"{"kubernetes.io":{"namespace":"shop"}}"#);
        for other in ["", "a.b", "a.!.c", &legacy, &unbound, &format!("{bound}.more")] {
            assert_eq!(Claimed::read(other), None, "{other:?}");
        }
    }
}
