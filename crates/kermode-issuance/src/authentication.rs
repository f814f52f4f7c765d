//! Who is calling: a proxy proves by its service-account token, bound to its Pod, that it is the Dataplane it says.
//!
//! The token must be good, and namespace, service account and Pod of the token must be those of the Dataplane asked
//! for; so nobody gets another proxy's configuration or certificate (DESIGN section 4).
//!
//! Anybody may call, so until the API server has vouched for the token, answers depend on the token alone and not on
//! which Pods there are, and the questions to the API server are bounded.

mod token;

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kermode_authentication::{Authenticator, ProxyIdentity};
use kermode_k8s::controller::describe;
use kermode_k8s::index::PodIdentity;
use kermode_model::ObjectKey;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::Semaphore;
use tonic::{Code, Status};

use self::token::Claimed;
use kermode_k8s::shared_index::SharedIndex;

/// Extra information of tokens that are bound to a Pod.
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
/// Reviews at once of tokens that claim a Pod with the UID that it has.
const KNOWN: usize = 24;
/// Reviews at once of all others: of sidecars that are early, and of strangers, who shall not hold up the rest.
const UNKNOWN: usize = 8;
/// How long a review may take, its turn included.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why a caller is not let in.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// There is no usable token.
    #[error("no bearer token in the request's authorization metadata")]
    NoToken,
    /// The token is not of the sort that can prove anything.
    #[error("the token is not one of a service account bound to a Pod; the sidecar needs a projected token")]
    NotBound,
    /// The token, by its own account, belongs to somebody else.
    #[error("the token is not that of proxy {0}")]
    Foreign(ObjectKey),
    /// The API server does not know the token.
    #[error("token is not valid: {0}")]
    InvalidToken(String),
    /// The token belongs to somebody else.
    #[error("the token's service account {token} is not that of Pod {proxy}")]
    NotYours {
        /// Whose token it is.
        token: Arc<str>,
        /// Its Pod.
        proxy: ObjectKey,
    },
    /// The Pod has not been seen yet, is not injected, or no Dataplane can be made of it.
    #[error("no Dataplane {0} yet: its Pod is unknown, has no sidecar, or has Events that say what is wrong")]
    UnknownProxy(ObjectKey),
    /// Another Pod of that name is known.
    #[error("Dataplane {0} is that of another Pod of that name: one of the two has gone, or is too new")]
    OtherPod(ObjectKey),
    /// The API server could not be asked.
    #[error("{0}")]
    Unavailable(String),
    /// It was not asked, or did not answer, in time.
    #[error(
        "the token was not reviewed within {PATIENCE:?}: the API server is slow, or too many proxies ask"
    )]
    TooSlow,
}

/// Authenticates proxies.
#[derive(Clone)]
pub struct Authentication {
    client: Client,
    index: SharedIndex,
    room: Arc<Room>,
    patience: Duration,
}

/// How many reviews may run.
struct Room {
    known: Semaphore,
    unknown: Semaphore,
}

impl Authentication {
    /// Authenticates against the API server and what the index knows of Pods.
    pub fn new(client: Client, index: SharedIndex) -> Self {
        let room = Room {
            known: Semaphore::new(KNOWN),
            unknown: Semaphore::new(UNKNOWN),
        };
        Self {
            client,
            index,
            room: Arc::new(room),
            patience: PATIENCE,
        }
    }

    /// Checks that the metadata's token is that of the proxy.
    pub async fn check(&self, metadata: &http::HeaderMap, proxy: &ObjectKey) -> Result<(), Refused> {
        let (token, claimed) = read(metadata)?;
        if claimed.pod != *proxy {
            return Err(Refused::Foreign(proxy.clone()));
        }
        let identity = self.prove(token, &claimed).await?;
        self.allow(&identity)
    }

    /// Who the caller is, by the metadata's token.
    pub async fn identify(&self, metadata: &http::HeaderMap) -> Result<ProxyIdentity, Refused> {
        let (token, claimed) = read(metadata)?;
        self.prove(token, &claimed).await
    }

    /// Whether the Dataplane of the Pod's name is that Pod's, as far as is known now.
    pub fn allow(&self, identity: &ProxyIdentity) -> Result<(), Refused> {
        let proxy = &identity.key;
        self.index.pod_identity(proxy, |known| {
            let known = known.ok_or_else(|| Refused::UnknownProxy(proxy.clone()))?;
            if *known.uid != *identity.uid {
                return Err(Refused::OtherPod(proxy.clone()));
            }
            if *known.service_account != *identity.service_account {
                return Err(Refused::NotYours {
                    token: identity.service_account.clone(),
                    proxy: proxy.clone(),
                });
            }
            Ok(())
        })
    }

    /// Has the API server vouch for what the token claims.
    async fn prove(&self, token: &str, claimed: &Claimed) -> Result<ProxyIdentity, Refused> {
        let has_that_uid = |known: Option<PodIdentity<'_>>| known.is_some_and(|pod| *pod.uid == *claimed.uid);
        // A UID cannot be guessed, so strangers learn nothing from the queue that they are in.
        let room = if self.index.pod_identity(&claimed.pod, has_that_uid) {
            &self.room.known
        } else {
            &self.room.unknown
        };
        let reviewed = async {
            // Never closed; without a permit there would be no bound.
            let _permit = room.acquire().await.map_err(|_| Refused::TooSlow)?;
            self.review(token).await
        };
        let status = tokio::time::timeout(self.patience, reviewed)
            .await
            .map_err(|_| Refused::TooSlow)??;
        if status.authenticated != Some(true) {
            let reason = status.error.unwrap_or_else(|| "not authenticated".to_owned());
            return Err(Refused::InvalidToken(reason));
        }
        let identity = identity(status).ok_or(Refused::NotBound)?;
        if identity.key != claimed.pod {
            return Err(Refused::Foreign(claimed.pod.clone()));
        }
        Ok(identity)
    }

    #[tracing::instrument(level = "debug", skip_all)]
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

impl Authenticator for Authentication {
    fn authenticate<'a>(
        &'a self,
        metadata: &'a http::HeaderMap,
    ) -> BoxFuture<'a, Result<ProxyIdentity, Status>> {
        Box::pin(async move { self.identify(metadata).await.map_err(|refused| status(&refused)) })
    }

    fn authorize(&self, identity: &ProxyIdentity) -> Result<(), Status> {
        self.allow(identity).map_err(|refused| status(&refused))
    }
}

/// What a caller that is not let in is told. The log has it too: an attempt to be somebody else is worth a look. Of
/// strangers only who asks for details hears: there may be any number.
pub(crate) fn status(refused: &Refused) -> Status {
    let code = match refused {
        Refused::UnknownProxy(_) | Refused::OtherPod(_) => Code::NotFound,
        Refused::Unavailable(_) | Refused::TooSlow => Code::Unavailable,
        Refused::NoToken | Refused::NotBound | Refused::Foreign(_) | Refused::InvalidToken(_) => {
            Code::Unauthenticated
        }
        Refused::NotYours { .. } => Code::PermissionDenied,
    };
    match code {
        Code::NotFound => tracing::debug!("proxy has to wait: {refused}"),
        Code::Unauthenticated => tracing::debug!("caller refused: {refused}"),
        _ => tracing::warn!("proxy refused: {refused}"),
    }
    Status::new(code, refused.to_string())
}

fn read(metadata: &http::HeaderMap) -> Result<(&str, Claimed), Refused> {
    let token = token::bearer(metadata).ok_or(Refused::NoToken)?;
    let claimed = Claimed::read(token).ok_or(Refused::NotBound)?;
    Ok((token, claimed))
}

/// The Pod that a good token is bound to.
fn identity(status: TokenReviewStatus) -> Option<ProxyIdentity> {
    let user = status.user?;
    let name = user.username?;
    let (namespace, service_account) = name.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    let mut extra = user.extra?;
    let mut bound_to = |key: &str| extra.remove(key)?.into_iter().next();
    Some(ProxyIdentity {
        key: ObjectKey::new(namespace, bound_to(POD_NAME)?),
        service_account: service_account.into(),
        uid: bound_to(POD_UID)?.into(),
    })
}

#[cfg(test)]
pub(crate) mod tests;
