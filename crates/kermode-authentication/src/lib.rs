//! Identity of a proxy that calls the control plane, and the interface that authenticates and authorizes such callers.
//!
//! The services of ADS and endpoint removals depend on this interface only. `kermode-issuance` implements the interface
//! with the API server's TokenReview and the index of Pods (docs/design.md#authentication-of-proxies), and uses the
//! same implementation for its own service, which issues certificates.

use std::sync::Arc;

use futures::future::BoxFuture;
use kermode_model::ObjectKey;
use tonic::Status;

/// Authenticated identity of a caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyIdentity {
    /// Namespace and name of the proxy's Pod. The Dataplane has the same namespace and name.
    pub key: ObjectKey,
    /// Service account that the Pod runs as.
    pub service_account: Arc<str>,
    /// UID of the Pod; distinguishes it from an earlier or later Pod of the same name.
    pub uid: Arc<str>,
}

/// Authenticates callers and authorizes their access to a Dataplane.
pub trait Authenticator: Send + Sync + 'static {
    /// Authenticates the caller by the metadata of the call. The ADS service calls this method before it reads a
    /// message of the call.
    ///
    /// # Errors
    /// The status that the call is rejected with.
    fn authenticate<'a>(
        &'a self,
        metadata: &'a http::HeaderMap,
    ) -> BoxFuture<'a, Result<ProxyIdentity, Status>>;

    /// Checks against the current index that the Dataplane named by the identity belongs to the identity's Pod. ADS
    /// streams call this method when they begin and after every change of their resources, so it must be fast and must
    /// not block.
    ///
    /// # Errors
    /// The status that the call is rejected with; `NOT_FOUND` when the Dataplane may still appear.
    fn authorize(&self, identity: &ProxyIdentity) -> Result<(), Status>;
}
