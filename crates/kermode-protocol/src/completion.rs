//! RPC by which a classic sidecar waits for the end of its application (`docs/reference/dataplane.md#finished-jobs`).
//!
//! One unary call, authenticated as for ADS. The control plane responds once all containers of the application have
//! terminated and none of them will be restarted. For a Pod whose application never ends this way, it responds at once.

/// Name of the gRPC service, package included.
pub const SERVICE_NAME: &str = "kermode.completion.v1.CompletionService";

/// Path of the unary method: [`AwaitCompletionRequest`] to [`AwaitCompletionResponse`].
pub const AWAIT_COMPLETION: &str = "/kermode.completion.v1.CompletionService/AwaitCompletion";

/// Waits for the end of the caller's application. Empty, because the token identifies the caller.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct AwaitCompletionRequest {}

/// End of the wait.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct AwaitCompletionResponse {
    /// Whether the application has ended, so that the sidecar has to end, too. If false, the Pod restarts its containers
    /// whenever they end, or the kubelet ends the sidecar; another call would get the same response.
    #[prost(bool, tag = "1")]
    pub is_finished: bool,
}
