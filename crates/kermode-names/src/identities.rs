//! Cache of the identities of callers. A sidecar looks up names every few seconds, and its token stays the same for hours.
//! Without the cache, each lookup would cost a TokenReview, and would fail while the API server is away.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use http::HeaderMap;
use http::header::AUTHORIZATION;
use kermode_authentication::{Authenticator, ProxyIdentity};
use kermode_model::ObjectKey;
use parking_lot::Mutex;
use ring::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use tonic::Status;

/// Time for which the identity of a reviewed token is reused. [`Authenticator::authorize`] still refuses a Pod that no
/// longer exists.
const IDENTITY_TTL: Duration = Duration::from_mins(5);
/// Maximum number of cached identities. Tokens beyond it are reviewed at each call.
const MAX_IDENTITIES: usize = 20_000;

/// SHA-256 of the metadata `authorization`.
type TokenHash = [u8; SHA256_OUTPUT_LEN];

/// An authenticator that reuses the identities of another one.
pub(crate) struct KnownIdentities {
    reviewer: Box<dyn Authenticator>,
    known: Mutex<Known>,
}

/// The cached identities. A Pod has one token, its last one, so it cannot fill the cache with forms of its token.
#[derive(Default)]
struct Known {
    by_token: HashMap<TokenHash, (ProxyIdentity, Instant)>,
    by_pod: HashMap<ObjectKey, TokenHash>,
}

impl KnownIdentities {
    pub(crate) fn new(reviewer: impl Authenticator) -> Self {
        Self {
            reviewer: Box::new(reviewer),
            known: Mutex::default(),
        }
    }

    /// Returns the identity of the caller. Only accepted tokens are cached.
    pub(crate) async fn authenticate(&self, metadata: &HeaderMap) -> Result<ProxyIdentity, Status> {
        let Some(hash) = hash(metadata) else {
            return self.reviewer.authenticate(metadata).await;
        };
        if let Some(identity) = self.known(&hash, Instant::now()) {
            return Ok(identity);
        }
        let identity = self.reviewer.authenticate(metadata).await?;
        self.insert(hash, identity.clone(), Instant::now());
        Ok(identity)
    }

    /// See [`Authenticator::authorize`].
    pub(crate) fn authorize(&self, identity: &ProxyIdentity) -> Result<(), Status> {
        self.reviewer.authorize(identity)
    }

    fn known(&self, hash: &TokenHash, now: Instant) -> Option<ProxyIdentity> {
        let known = self.known.lock();
        let (identity, reviewed_at) = known.by_token.get(hash)?;
        is_fresh(*reviewed_at, now).then(|| identity.clone())
    }

    fn insert(&self, hash: TokenHash, identity: ProxyIdentity, now: Instant) {
        let Known { by_token, by_pod } = &mut *self.known.lock();
        if let Some(former) = by_pod.remove(&identity.key) {
            by_token.remove(&former);
        }
        if by_token.len() >= MAX_IDENTITIES {
            by_token.retain(|_, (_, reviewed_at)| is_fresh(*reviewed_at, now));
            by_pod.retain(|_, hash| by_token.contains_key(hash));
        }
        if by_token.len() < MAX_IDENTITIES {
            by_pod.insert(identity.key.clone(), hash);
            by_token.insert(hash, (identity, now));
        }
    }
}

fn is_fresh(reviewed_at: Instant, now: Instant) -> bool {
    now.duration_since(reviewed_at) < IDENTITY_TTL
}

fn hash(metadata: &HeaderMap) -> Option<TokenHash> {
    let credentials = metadata.get(AUTHORIZATION)?;
    digest(&SHA256, credentials.as_bytes()).as_ref().try_into().ok()
}

#[cfg(test)]
mod tests {
    use futures::future::BoxFuture;

    use super::*;

    struct Unused;

    impl Authenticator for Unused {
        fn authenticate<'a>(&'a self, _: &'a HeaderMap) -> BoxFuture<'a, Result<ProxyIdentity, Status>> {
            Box::pin(async { Err(Status::unauthenticated("no token is valid")) })
        }

        fn authorize(&self, _: &ProxyIdentity) -> Result<(), Status> {
            Ok(())
        }
    }

    fn identity(pod: usize) -> ProxyIdentity {
        ProxyIdentity {
            key: ObjectKey::new("shop", format!("web-{pod}")),
            service_account: "web".into(),
            uid: "1".into(),
        }
    }

    fn numbered(number: usize) -> TokenHash {
        let mut hash = TokenHash::default();
        hash[..8].copy_from_slice(&number.to_be_bytes());
        hash
    }

    #[test]
    fn identity_is_reused_for_a_limited_time() {
        let identities = KnownIdentities::new(Unused);
        let start = Instant::now();
        identities.insert(numbered(1), identity(1), start);
        let just_before = start + IDENTITY_TTL.saturating_sub(Duration::from_secs(1));
        assert_eq!(identities.known(&numbered(1), just_before), Some(identity(1)));
        assert_eq!(identities.known(&numbered(1), start + IDENTITY_TTL), None);
        assert_eq!(identities.known(&numbered(2), start), None);
    }

    #[test]
    fn number_of_identities_is_limited_and_expired_ones_make_room() {
        let identities = KnownIdentities::new(Unused);
        let start = Instant::now();
        for number in 0..=MAX_IDENTITIES {
            identities.insert(numbered(number), identity(number), start);
        }
        assert_eq!(identities.known.lock().by_token.len(), MAX_IDENTITIES);
        assert_eq!(identities.known(&numbered(MAX_IDENTITIES), start), None);
        identities.insert(
            numbered(MAX_IDENTITIES),
            identity(MAX_IDENTITIES),
            start + IDENTITY_TTL,
        );
        let known = identities.known.lock();
        assert_eq!((known.by_token.len(), known.by_pod.len()), (1, 1));
    }

    #[test]
    fn pod_has_one_entry_whatever_tokens_it_presents() {
        let identities = KnownIdentities::new(Unused);
        let start = Instant::now();
        for number in 0..10 {
            identities.insert(numbered(number), identity(1), start);
        }
        assert_eq!(identities.known.lock().by_token.len(), 1);
        assert_eq!(identities.known(&numbered(9), start), Some(identity(1)));
        assert_eq!(identities.known(&numbered(8), start), None);
    }
}
