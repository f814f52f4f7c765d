//! The identity API between `kuma-dp` and `kuma-cp`: one unary gRPC call.
//!
//! Proxies authenticate as they do for ADS: `authorization: Bearer <service account token>` in the metadata. The
//! messages are derived by hand so that neither a code generator nor tonic is needed here.

/// Path of the call, for a tonic client or server.
pub const ISSUE_CERTIFICATE_PATH: &str = "/kermode.identity.v1.IdentityService/IssueCertificate";

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
        }
    }

    /// What the answer says, for the proxy.
    pub fn into_parts(self) -> (crate::IssuedCertificate, crate::TrustBundle) {
        let chain = self.chain_der.into_iter().map(Into::into).collect();
        let validity = crate::Validity::from_unix(self.not_before, self.not_after);
        let roots = crate::TrustBundle::new(self.roots_der.into_iter().map(Into::into));
        (crate::IssuedCertificate { chain, validity }, roots)
    }
}
