//! Certificate RPCs between the sidecar agent and the control plane: a unary call that issues a certificate for a
//! key, and a stream of the mesh's trust bundle.
//!
//! Proxies authenticate as for ADS: `authorization: Bearer <service account token>` in the metadata. The messages carry
//! plain DER; each side converts from and to the types of `kermode-identity`.

/// Name of the gRPC service, package included.
pub const SERVICE_NAME: &str = "kermode.identity.v1.IdentityService";

/// Path of the unary method: [`IssueCertificateRequest`] to [`IssueCertificateResponse`].
pub const ISSUE_CERTIFICATE: &str = "/kermode.identity.v1.IdentityService/IssueCertificate";

/// Path of the server-streaming method: [`WatchRootsRequest`] to [`RootsUpdate`]s.
pub const WATCH_ROOTS: &str = "/kermode.identity.v1.IdentityService/WatchRoots";

/// Requests a certificate for a key that the caller holds.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct IssueCertificateRequest {
    /// Mesh of the proxy.
    #[prost(string, tag = "1")]
    pub mesh: String,
    /// Name of the proxy, `<pod>.<namespace>`.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Certificate signing request (PKCS#10, DER or PEM) with the key. The names in the certificate come from the
    /// Dataplane. A signing request that contains other names is rejected.
    #[prost(bytes = "vec", tag = "3")]
    pub csr: Vec<u8>,
}

/// Certificate and trust bundle.
///
/// Errors are gRPC codes:
///
/// - `FAILED_PRECONDITION`: the mesh has no mTLS.
/// - `NOT_FOUND`: the Dataplane does not exist yet.
/// - `UNAUTHENTICATED`: the token is invalid or belongs to another proxy.
/// - `PERMISSION_DENIED`: the token's service account is not that of the Pod.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct IssueCertificateResponse {
    /// Certificate chain, leaf first, without the root (DER).
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub chain_der: Vec<Vec<u8>>,
    /// Trust bundle of the mesh: its root certificates (DER).
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub roots_der: Vec<Vec<u8>>,
    /// Start of the leaf's validity, in seconds since the Unix epoch.
    #[prost(int64, tag = "3")]
    pub not_before: i64,
    /// End of the leaf's validity, in seconds since the Unix epoch.
    #[prost(int64, tag = "4")]
    pub not_after: i64,
    /// Version of the trust bundle; increases with every change. See [`RootsUpdate::roots_version`].
    #[prost(uint64, tag = "5")]
    pub roots_version: u64,
    /// Number of the CA generation that signed the leaf.
    #[prost(uint32, tag = "6")]
    pub signer: u32,
    /// Fingerprint of the names in the leaf. See [`RootsUpdate::names`].
    #[prost(fixed64, tag = "7")]
    pub names: u64,
}

/// Subscribes to the trust bundle of a mesh and to the names of the proxy: the current ones, then every change.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct WatchRootsRequest {
    /// Mesh of the proxy.
    #[prost(string, tag = "1")]
    pub mesh: String,
    /// Name of the proxy, `<pod>.<namespace>`.
    #[prost(string, tag = "2")]
    pub name: String,
}

/// Trust bundle of a mesh. Its field numbers differ from those of [`IssueCertificateResponse`], so neither message
/// decodes as the other.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct RootsUpdate {
    /// Root certificates (DER).
    #[prost(bytes = "vec", repeated, tag = "11")]
    pub roots_der: Vec<Vec<u8>>,
    /// Version of the trust bundle; increases with every change. A replica of the control plane may lag behind another,
    /// so a proxy ignores a version lower than its own, unless the two bundles have no common root.
    #[prost(uint64, tag = "12")]
    pub roots_version: u64,
    /// Number of the CA generation that signs now. A proxy renews its certificate if another generation signed it.
    #[prost(uint32, tag = "13")]
    pub signer: u32,
    /// Time span, in seconds, over which proxies spread the renewals after a change of `signer`.
    #[prost(uint32, tag = "14")]
    pub renew_within: u32,
    /// Fingerprint of the names that a certificate of the proxy contains now; 0 if unknown. The names change when
    /// services or labels of the Pod change. A proxy renews its certificate if it has other names.
    #[prost(fixed64, tag = "15")]
    pub names: u64,
}
