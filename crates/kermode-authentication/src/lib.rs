//! Identity of the proxy that calls an RPC of the control plane, and the interface by which the RPCs check it.
//!
//! The servers of ADS, certificates and endpoint removals depend on this interface only. `kuma-cp` implements it with
//! the API server's TokenReview and the index of Pods (docs/design.md#authentication-of-proxies).

use std::sync::Arc;

use futures::future::BoxFuture;
use kermode_model::ObjectKey;
use tonic::Status;

/// Proven identity of a caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyIdentity {
    /// Namespace and name of its Pod, which are also those of its Dataplane.
    pub key: ObjectKey,
    /// Service account that the Pod runs as.
    pub service_account: Arc<str>,
    /// UID of the Pod; distinguishes Pods that had the same name one after the other.
    pub uid: Arc<str>,
}

/// Authenticates callers and authorizes their access to a Dataplane.
pub trait Authenticator: Send + Sync + 'static {
    /// Authenticates the caller by the metadata of the call, before any message of the call is read.
    ///
    /// # Errors
    /// The status that the call is rejected with.
    fn authenticate<'a>(
        &'a self,
        metadata: &'a http::HeaderMap,
    ) -> BoxFuture<'a, Result<ProxyIdentity, Status>>;

    /// Checks against the current index that the Dataplane with the identity's name belongs to its Pod. Streams call this
    /// when they begin and after every change, so it must be fast and must not block.
    ///
    /// # Errors
    /// The status that the call is rejected with; `NOT_FOUND` when the Dataplane may still appear.
    fn authorize(&self, identity: &ProxyIdentity) -> Result<(), Status>;
}
