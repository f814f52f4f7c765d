//! Authentication of proxies by service-account tokens that are bound to their Pods.
//!
//! The API server reviews the token. The namespace, service account, Pod name and Pod UID in the token must match the
//! Pod of the requested Dataplane. Therefore, no proxy gets the configuration or certificate of another proxy
//! (docs/design.md#authentication-of-proxies).
//!
//! The token must be for the audience of sidecars, or for the API server if the configuration accepts such tokens.
//! If every audience were accepted, a third party that gets a token from an application could authenticate as the
//! proxy of the application's Pod (docs/design.md#proxy-tokens).
//!
//! The port for proxies is open to every caller. Before the API server has accepted the token, responses do not reveal
//! which Pods exist. The number of concurrent TokenReviews is limited.

mod token;

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kermode_authentication::{Authenticator, ProxyIdentity};
use kermode_k8s::controller::describe;
use kermode_k8s::index::PodIdentity;
use kermode_k8s::shared_index::SharedIndex;
use kermode_model::ObjectKey;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::Semaphore;
use tonic::{Code, Status};

use self::token::TokenClaims;
use crate::denial::{Denial, DenialLog};

/// Key in `status.user.extra` of a TokenReview: the name of the Pod that the token is bound to.
const POD_NAME_KEY: &str = "authentication.kubernetes.io/pod-name";
/// Key in `status.user.extra` of a TokenReview: the UID of the Pod that the token is bound to.
const POD_UID_KEY: &str = "authentication.kubernetes.io/pod-uid";
/// Limit of concurrent TokenReviews for known Pods. The Pod in a token is known if the index has a Pod with the same
/// name and UID.
const MAX_KNOWN_POD_REVIEWS: usize = 24;
/// Limit of concurrent TokenReviews for unknown Pods. The separate limit prevents unauthorized callers from delaying
/// known Pods. A new Pod with a sidecar is unknown until the watch has reported the Pod.
const MAX_UNKNOWN_POD_REVIEWS: usize = 8;
/// Time limit of a TokenReview, including the wait for a permit.
const REVIEW_TIMEOUT: Duration = Duration::from_secs(5);

/// Error of a caller that cannot be authenticated or authorized.
#[derive(Debug, thiserror::Error)]
pub enum AuthenticationError {
    /// The metadata has no usable token.
    #[error("no bearer token in the request's authorization metadata")]
    NoToken,
    /// The token is not a service-account token bound to a Pod.
    #[error("the token is not a service-account token bound to a Pod; the sidecar needs a projected token")]
    NotBound,
    /// The token is for other audiences than this one.
    #[error(
        "the token is not for audience {0}: restart the Pod, so that its sidecar gets a token of its own; or add this \
         audience to the volume that kuma.io/service-account-token-volume names"
    )]
    WrongAudience(Arc<str>),
    /// The token belongs to another proxy than this one.
    #[error("the token does not belong to proxy {0}")]
    OtherProxy(ObjectKey),
    /// The API server rejects the token, or has not checked its audience.
    #[error("the token is not valid: {0}")]
    InvalidToken(String),
    /// The token and its Pod have different service accounts.
    #[error("the token has service account {token_account}, but Pod {pod} has another service account")]
    ServiceAccountMismatch {
        /// Service account of the token.
        token_account: Arc<str>,
        /// Pod that the token is bound to.
        pod: ObjectKey,
    },
    /// The Pod is not in the index yet, has no sidecar, or cannot be converted to a Dataplane.
    #[error(
        "no Dataplane {0} yet: its Pod is unknown, has no sidecar, or is invalid; see the Events of the Pod"
    )]
    UnknownProxy(ObjectKey),
    /// The index has another Pod of the same name.
    #[error(
        "Dataplane {0} belongs to another Pod of the same name: one of the two Pods was deleted or created just now"
    )]
    UidMismatch(ObjectKey),
    /// The TokenReview failed.
    #[error("{0}")]
    ReviewFailed(String),
    /// The TokenReview did not complete in time.
    #[error(
        "the token was not reviewed within {REVIEW_TIMEOUT:?}: the API server is slow, or too many proxies send tokens"
    )]
    ReviewTimedOut,
}

/// Audiences of the tokens that the control plane accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptedAudiences {
    /// Audience of the tokens of sidecars.
    pub sidecars: Arc<str>,
    /// Whether tokens for the API server are accepted too.
    pub accepts_api_server_tokens: bool,
}

/// Authenticates proxies by their tokens, and checks their Pods in the index. Cheap to clone.
#[derive(Clone)]
pub struct TokenAuthenticator {
    client: Client,
    index: SharedIndex,
    audiences: AcceptedAudiences,
    permits: Arc<ReviewPermits>,
    denials: Arc<DenialLog>,
    review_timeout: Duration,
}

/// Permits for concurrent TokenReviews.
struct ReviewPermits {
    known_pods: Semaphore,
    unknown_pods: Semaphore,
}

// === impl AuthenticationError ===

impl AuthenticationError {
    /// Returns the code of the gRPC status of the response.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::UnknownProxy(_) | Self::UidMismatch(_) => Code::NotFound,
            Self::ReviewFailed(_) | Self::ReviewTimedOut => Code::Unavailable,
            Self::NoToken
            | Self::NotBound
            | Self::WrongAudience(_)
            | Self::OtherProxy(_)
            | Self::InvalidToken(_) => Code::Unauthenticated,
            Self::ServiceAccountMismatch { .. } => Code::PermissionDenied,
        }
    }
}

// === impl TokenAuthenticator ===

impl TokenAuthenticator {
    /// Creates an authenticator that sends TokenReviews with `client` and looks up Pods in `index`.
    pub fn new(client: Client, index: SharedIndex, audiences: AcceptedAudiences) -> Self {
        let permits = ReviewPermits {
            known_pods: Semaphore::new(MAX_KNOWN_POD_REVIEWS),
            unknown_pods: Semaphore::new(MAX_UNKNOWN_POD_REVIEWS),
        };
        Self {
            client,
            index,
            audiences,
            permits: Arc::new(permits),
            denials: Arc::default(),
            review_timeout: REVIEW_TIMEOUT,
        }
    }

    /// Returns the log of denied callers.
    pub(crate) fn denials(&self) -> &Arc<DenialLog> {
        &self.denials
    }

    /// Authenticates the caller by the token in the metadata. Checks that the caller is `proxy` and passes
    /// [`Self::check_access`].
    pub async fn authenticate_as(
        &self,
        metadata: &http::HeaderMap,
        proxy: &ObjectKey,
    ) -> Result<(), AuthenticationError> {
        let (token, claims) = read_token(metadata)?;
        if claims.pod != *proxy {
            return Err(AuthenticationError::OtherProxy(proxy.clone()));
        }
        let identity = self.verify(token, &claims).await?;
        self.check_access(&identity)
    }

    /// Authenticates the caller by the token in the metadata. Does not check that the index has the Pod of the caller.
    pub async fn identify(&self, metadata: &http::HeaderMap) -> Result<ProxyIdentity, AuthenticationError> {
        let (token, claims) = read_token(metadata)?;
        self.verify(token, &claims).await
    }

    /// Checks that the index has the Pod of the identity, with the same UID and the same service account.
    pub fn check_access(&self, identity: &ProxyIdentity) -> Result<(), AuthenticationError> {
        let proxy = &identity.key;
        self.index.with_pod_identity(proxy, |known| {
            let known = known.ok_or_else(|| AuthenticationError::UnknownProxy(proxy.clone()))?;
            if *known.uid != *identity.uid {
                return Err(AuthenticationError::UidMismatch(proxy.clone()));
            }
            if *known.service_account != *identity.service_account {
                return Err(AuthenticationError::ServiceAccountMismatch {
                    token_account: identity.service_account.clone(),
                    pod: proxy.clone(),
                });
            }
            Ok(())
        })
    }

    /// Logs the denial of a proxy and returns the status of the response.
    fn deny(&self, error: AuthenticationError, proxy: Option<&str>) -> Status {
        let denial = Denial::from(error);
        self.denials.log(&denial, proxy);
        denial.status()
    }

    /// Verifies the token by a TokenReview, and checks that the reviewed identity has the claimed namespace and Pod
    /// name.
    async fn verify(&self, token: &str, claims: &TokenClaims) -> Result<ProxyIdentity, AuthenticationError> {
        let audience = self.reviewed_audience(claims)?;
        let has_claimed_uid =
            |known: Option<PodIdentity<'_>>| known.is_some_and(|pod| *pod.uid == *claims.pod_uid);
        // UIDs cannot be guessed, so the choice of the semaphore does not reveal which Pods exist.
        let permits = if self.index.with_pod_identity(&claims.pod, has_claimed_uid) {
            &self.permits.known_pods
        } else {
            &self.permits.unknown_pods
        };
        let review = async {
            // This error cannot occur, because the semaphore is never closed.
            let _permit = permits
                .acquire()
                .await
                .map_err(|_| AuthenticationError::ReviewTimedOut)?;
            self.review(token, audience).await
        };
        let status = tokio::time::timeout(self.review_timeout, review)
            .await
            .map_err(|_| AuthenticationError::ReviewTimedOut)??;
        if status.authenticated != Some(true) {
            let reason = status.error.unwrap_or_else(|| "not authenticated".to_owned());
            return Err(AuthenticationError::InvalidToken(reason));
        }
        // An API server that ignores audiences returns no audiences, and has not checked the audience of the token.
        let is_audience_checked =
            audience.is_none_or(|audience| status.audiences.iter().flatten().any(|found| found == audience));
        if !is_audience_checked {
            return Err(AuthenticationError::InvalidToken(
                "the API server did not check the audience".to_owned(),
            ));
        }
        let identity = bound_identity(status).ok_or(AuthenticationError::NotBound)?;
        if identity.key != claims.pod {
            return Err(AuthenticationError::OtherProxy(claims.pod.clone()));
        }
        Ok(identity)
    }

    /// Returns the audience that the API server must check; `None` for the API server's own audience. The claims are
    /// unverified, but the API server accepts the token only for the audience that is returned here.
    fn reviewed_audience(&self, claims: &TokenClaims) -> Result<Option<&str>, AuthenticationError> {
        let AcceptedAudiences {
            sidecars,
            accepts_api_server_tokens,
        } = &self.audiences;
        if claims.audiences.iter().any(|audience| **audience == **sidecars) {
            return Ok(Some(sidecars));
        }
        if *accepts_api_server_tokens {
            return Ok(None);
        }
        Err(AuthenticationError::WrongAudience(sidecars.clone()))
    }

    #[tracing::instrument(level = "debug", skip_all)]
    async fn review(
        &self,
        token: &str,
        audience: Option<&str>,
    ) -> Result<TokenReviewStatus, AuthenticationError> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: Some(token.to_owned()),
                audiences: audience.map(|audience| vec![audience.to_owned()]),
            },
            ..TokenReview::default()
        };
        let api: Api<TokenReview> = Api::all(self.client.clone());
        let review = api
            .create(&PostParams::default(), &review)
            .await
            .map_err(|error| {
                AuthenticationError::ReviewFailed(describe("a token cannot be reviewed", &error))
            })?;
        Ok(review.status.unwrap_or_default())
    }
}

impl Authenticator for TokenAuthenticator {
    fn authenticate<'a>(
        &'a self,
        metadata: &'a http::HeaderMap,
    ) -> BoxFuture<'a, Result<ProxyIdentity, Status>> {
        Box::pin(async move {
            self.identify(metadata)
                .await
                .map_err(|error| self.deny(error, None))
        })
    }

    fn authorize(&self, identity: &ProxyIdentity) -> Result<(), Status> {
        self.check_access(identity)
            .map_err(|error| self.deny(error, Some(&identity.key.proxy_name())))
    }
}

/// Returns the bearer token and its unverified claims.
fn read_token(metadata: &http::HeaderMap) -> Result<(&str, TokenClaims), AuthenticationError> {
    let token = token::bearer(metadata).ok_or(AuthenticationError::NoToken)?;
    let claims = TokenClaims::read(token).ok_or(AuthenticationError::NotBound)?;
    Ok((token, claims))
}

/// Returns the identity in the status of a TokenReview; `None` if the token is not bound to a Pod.
fn bound_identity(status: TokenReviewStatus) -> Option<ProxyIdentity> {
    let user = status.user?;
    let username = user.username?;
    let (namespace, service_account) = username.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    let mut extra = user.extra?;
    let mut bound_to = |key: &str| extra.remove(key)?.into_iter().next();
    Some(ProxyIdentity {
        key: ObjectKey::new(namespace, bound_to(POD_NAME_KEY)?),
        service_account: service_account.into(),
        uid: bound_to(POD_UID_KEY)?.into(),
    })
}

#[cfg(test)]
pub(crate) mod tests;
