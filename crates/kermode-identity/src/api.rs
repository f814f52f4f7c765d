//! The identity API between `kuma-dp` and `kuma-cp`: one unary gRPC call for certificates, and a stream that tells of
//! changes of the roots.
//!
//! Proxies authenticate as they do for ADS: `authorization: Bearer <service account token>` in the metadata. The
//! messages are derived by hand so that neither a code generator nor tonic is needed here.

/// Path of the call, for a tonic client or server.
pub const ISSUE_CERTIFICATE_PATH: &str = "/kermode.identity.v1.IdentityService/IssueCertificate";

/// Path of the stream, for a tonic client or server.
pub const WATCH_ROOTS_PATH: &str = "/kermode.identity.v1.IdentityService/WatchRoots";

/// Name of the service, for a tonic server's routing.
pub const SERVICE_NAME: &str = "kermode.identity.v1.IdentityService";

/// Asks for a certificate for a key that the caller holds.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct IssueCertificateRequest {
    /// Mesh of the proxy.
    #[prost(string, tag = "1")]
    pub mesh: String,
    /// Name of the proxy, `<pod>.<namespace>`.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Signing request (PKCS#10, DER). Only its key is honoured.
    #[prost(bytes = "vec", tag = "3")]
    pub csr_der: Vec<u8>,
}

/// The certificate, and whom to trust.
///
/// Refusals are gRPC codes: `FAILED_PRECONDITION` when the mesh has no mTLS, `NOT_FOUND` while the Dataplane does
/// not exist, `PERMISSION_DENIED` when the token is not that proxy's.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct IssueCertificateResponse {
    /// The chain, leaf first, without the root (DER).
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub chain_der: Vec<Vec<u8>>,
    /// The roots of the mesh (DER).
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub roots_der: Vec<Vec<u8>>,
    /// First moment the leaf is valid, seconds since the Unix epoch.
    #[prost(int64, tag = "3")]
    pub not_before: i64,
    /// Last moment the leaf is valid, seconds since the Unix epoch.
    #[prost(int64, tag = "4")]
    pub not_after: i64,
    /// Grows with each change of the roots; see [`RootsUpdate::roots_version`].
    #[prost(uint64, tag = "5")]
    pub roots_version: u64,
    /// Number of the CA that signed.
    #[prost(uint32, tag = "6")]
    pub signer: u32,
}

/// Asks to be told the roots of a mesh, now and whenever they change.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct WatchRootsRequest {
    /// Mesh of the proxy.
    #[prost(string, tag = "1")]
    pub mesh: String,
    /// Name of the proxy, `<pod>.<namespace>`.
    #[prost(string, tag = "2")]
    pub name: String,
}

/// The roots of a mesh. The numbers are none of [`IssueCertificateResponse`]'s, so that one is not read as the other.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct RootsUpdate {
    /// The roots (DER).
    #[prost(bytes = "vec", repeated, tag = "11")]
    pub roots_der: Vec<Vec<u8>>,
    /// Grows with each change of the roots: of two replicas of the control plane, one may be behind.
    #[prost(uint64, tag = "12")]
    pub roots_version: u64,
    /// Number of the CA that signs now. Who holds a certificate of another one shall renew it,
    #[prost(uint32, tag = "13")]
    pub signer: u32,
    /// within so many seconds, at a random moment.
    #[prost(uint32, tag = "14")]
    pub renew_within: u32,
}

impl RootsUpdate {
    /// Tells of the roots at a moment.
    pub fn new(trust: &crate::Trust, renew_within: std::time::Duration) -> Self {
        Self {
            roots_der: trust.bundle.roots().iter().map(|der| der.to_vec()).collect(),
            roots_version: trust.version,
            signer: trust.signer,
            renew_within: u32::try_from(renew_within.as_secs()).unwrap_or(u32::MAX),
        }
    }

    /// The roots.
    pub fn bundle(&self) -> crate::TrustBundle {
        crate::TrustBundle::new(self.roots_der.iter().cloned().map(Into::into))
    }
}

impl IssueCertificateResponse {
    /// The answer to a successful request.
    pub fn new(certificate: &crate::IssuedCertificate, roots: &crate::TrustBundle) -> Self {
        let (not_before, not_after) = certificate.validity.to_unix();
        Self {
            chain_der: certificate.chain.iter().map(|der| der.to_vec()).collect(),
            roots_der: roots.roots().iter().map(|der| der.to_vec()).collect(),
            not_before,
            not_after,
            roots_version: 0,
            signer: 0,
        }
    }

    /// The same, of the CA with that number.
    #[must_use]
    pub fn signed_by(mut self, trust: &crate::Trust) -> Self {
        self.roots_version = trust.version;
        self.signer = trust.signer;
        self
    }

    /// What the answer says, for the proxy.
    pub fn into_parts(self) -> (crate::IssuedCertificate, crate::TrustBundle) {
        let chain = self.chain_der.into_iter().map(Into::into).collect();
        let validity = crate::Validity::from_unix(self.not_before, self.not_after);
        let roots = crate::TrustBundle::new(self.roots_der.into_iter().map(Into::into));
        (crate::IssuedCertificate { chain, validity }, roots)
    }
}
