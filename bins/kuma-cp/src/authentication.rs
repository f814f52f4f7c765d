//! Who is calling: a proxy proves by its service-account token, bound to its Pod, that it is the Dataplane it says.
//!
//! The token must be good, and namespace, service account and Pod of the token must be those of the Dataplane asked
//! for; so nobody gets another proxy's configuration or certificate (DESIGN section 4).

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kermode_k8s::controller::describe;
use kermode_model::ObjectKey;
use kube::api::PostParams;
use kube::{Api, Client};

use crate::mesh::SharedIndex;

/// Extra information of tokens that are bound to a Pod.
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
/// The longest token worth looking at, in bytes.
const MAX_TOKEN: usize = 16 * 1024;

/// Why a caller is not let in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    /// There is no usable token.
    #[error("no bearer token in the request's authorization metadata")]
    NoToken,
    /// The API server does not know the token.
    #[error("token is not valid: {0}")]
    InvalidToken(String),
    /// The token belongs to somebody else.
    #[error("token of {token} is not that of proxy {proxy}: {mismatch}")]
    NotYours {
        /// Whose token it is.
        token: String,
        /// The proxy asked for.
        proxy: ObjectKey,
        /// What does not fit.
        mismatch: &'static str,
    },
    /// The Pod has not been seen yet, or is not injected.
    #[error("no Dataplane {0} yet: its Pod is unknown or has no sidecar")]
    UnknownProxy(ObjectKey),
    /// The API server could not be asked.
    #[error("{0}")]
    Unavailable(String),
}

/// Authenticates proxies.
#[derive(Clone)]
pub(crate) struct Authentication {
    client: Client,
    index: SharedIndex,
}

impl Authentication {
    /// Authenticates against the API server and what the index knows of Pods.
    pub(crate) fn new(client: Client, index: SharedIndex) -> Self {
        Self { client, index }
    }

    /// Checks that the metadata's token is that of the proxy.
    pub(crate) async fn check(&self, metadata: &http::HeaderMap, proxy: &ObjectKey) -> Result<(), Refused> {
        let token = bearer_token(metadata).ok_or(Refused::NoToken)?;
        let identity = self
            .index
            .pod_identity(proxy)
            .ok_or_else(|| Refused::UnknownProxy(proxy.clone()))?;
        let status = self.review(token).await?;
        if status.authenticated != Some(true) {
            let reason = status.error.unwrap_or_else(|| "not authenticated".to_owned());
            return Err(Refused::InvalidToken(reason));
        }
        let user = status.user.unwrap_or_default();
        let name = user.username.unwrap_or_default();
        let extra = user.extra.unwrap_or_default();
        let bound_to = |key: &str| {
            extra
                .get(key)
                .and_then(|values| values.first())
                .map(String::as_str)
        };
        let expected = format!(
            "system:serviceaccount:{}:{}",
            proxy.namespace, identity.service_account
        );
        let mismatch = if name != expected {
            "another service account or namespace"
        } else if bound_to(POD_NAME) != Some(&*proxy.name) {
            "it is not bound to that Pod; the sidecar needs a projected token"
        } else if bound_to(POD_UID) != Some(&*identity.uid) {
            "it is bound to an earlier Pod of that name"
        } else {
            return Ok(());
        };
        Err(Refused::NotYours {
            token: name,
            proxy: proxy.clone(),
            mismatch,
        })
    }

    async fn review(&self, token: &str) -> Result<TokenReviewStatus, Refused> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: Some(token.to_owned()),
                audiences: None,
            },
            ..TokenReview::default()
        };
        let api: Api<TokenReview> = Api::all(self.client.clone());
        let review = api
            .create(&PostParams::default(), &review)
            .await
            .map_err(|error| Refused::Unavailable(describe("a token cannot be reviewed", &error)))?;
        Ok(review.status.unwrap_or_default())
    }
}

fn bearer_token(metadata: &http::HeaderMap) -> Option<&str> {
    let value = metadata.get(http::header::AUTHORIZATION)?.to_str().ok()?;
    let token = value.strip_prefix("Bearer ")?.trim();
    (!token.is_empty() && token.len() <= MAX_TOKEN).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bearer_token_of_sane_size_counts() {
        let token = |value: &str| {
            let mut metadata = http::HeaderMap::new();
            metadata.insert("authorization", value.parse().expect("a header value"));
            bearer_token(&metadata).map(str::to_owned)
        };
        assert_eq!(token("Bearer abc").as_deref(), Some("abc"));
        assert_eq!(token("Basic abc"), None);
        assert_eq!(token("Bearer "), None);
        assert_eq!(token(&format!("Bearer {}", "x".repeat(MAX_TOKEN + 1))), None);
        assert_eq!(bearer_token(&http::HeaderMap::new()), None);
    }
}
