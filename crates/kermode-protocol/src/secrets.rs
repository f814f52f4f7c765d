//! Messages of Envoy's secret discovery service (SDS), limited to the fields that the agent reads and writes.
//!
//! Field numbers are those of Envoy's `envoy/service/discovery/v3/discovery.proto`,
//! `envoy/extensions/transport_sockets/tls/v3/{secret,common}.proto` and `envoy/config/core/v3/base.proto`.
//! `Debug` of a message that may hold a private key shows no contents of secrets.

use std::fmt;

use kermode_model::MeshName;

use crate::ads::{Any, Status};

/// Name of the gRPC service, package included.
pub const SERVICE_NAME: &str = "envoy.service.secret.v3.SecretDiscoveryService";

/// Path of the bidirectional stream of [`DiscoveryRequest`] and [`DiscoveryResponse`].
pub const STREAM_SECRETS: &str = "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets";

/// Type URL of [`Secret`].
pub const SECRET_TYPE: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

/// Returns the name of the secret with a proxy's own certificate and key. Generated TLS contexts contain this name.
pub fn identity_secret_name(mesh: &MeshName) -> String {
    format!("identity_cert:secret:{mesh}")
}

/// Returns the name of the secret with the trust bundle of a mesh. Generated TLS contexts contain this name.
pub fn trust_bundle_secret_name(mesh: &MeshName) -> String {
    format!("mesh_ca:secret:{mesh}")
}

/// `envoy.service.discovery.v3.DiscoveryRequest`: a subscription, an ACK or a NACK.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DiscoveryRequest {
    /// Version of the last response that Envoy accepted.
    #[prost(string, tag = "1")]
    pub version_info: String,
    /// Names of all subscribed secrets.
    #[prost(string, repeated, tag = "3")]
    pub resource_names: Vec<String>,
    /// Type URL of the resources.
    #[prost(string, tag = "4")]
    pub type_url: String,
    /// Nonce of the response that is acknowledged or rejected; empty in the first request.
    #[prost(string, tag = "5")]
    pub response_nonce: String,
    /// Reason of a NACK; absent otherwise.
    #[prost(message, optional, tag = "6")]
    pub error_detail: Option<Status>,
}

/// `envoy.service.discovery.v3.DiscoveryResponse`.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub struct DiscoveryResponse {
    /// Version of the secrets.
    #[prost(string, tag = "1")]
    pub version_info: String,
    /// The secrets, each an encoded [`Secret`].
    #[prost(message, repeated, tag = "2")]
    pub resources: Vec<Any>,
    /// Type URL of the resources.
    #[prost(string, tag = "4")]
    pub type_url: String,
    /// Nonce that the ACK or NACK repeats.
    #[prost(string, tag = "5")]
    pub nonce: String,
}

/// `envoy.extensions.transport_sockets.tls.v3.Secret`.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
#[prost(skip_debug)]
pub struct Secret {
    /// Name, as in the subscription.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Contents.
    #[prost(oneof = "SecretKind", tags = "2, 4")]
    pub kind: Option<SecretKind>,
}

/// Contents of a [`Secret`]: the two kinds that sidecars use.
#[derive(Clone, PartialEq, Eq, Hash, prost::Oneof)]
#[prost(skip_debug)]
pub enum SecretKind {
    /// Certificate and private key.
    #[prost(message, tag = "2")]
    TlsCertificate(TlsCertificate),
    /// Trust bundle.
    #[prost(message, tag = "4")]
    ValidationContext(CertificateValidationContext),
}

/// `envoy.extensions.transport_sockets.tls.v3.TlsCertificate`.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
#[prost(skip_debug)]
pub struct TlsCertificate {
    /// Certificate chain, leaf first (PEM).
    #[prost(message, optional, tag = "1")]
    pub certificate_chain: Option<DataSource>,
    /// Private key (PKCS#8, PEM).
    #[prost(message, optional, tag = "2")]
    pub private_key: Option<DataSource>,
}

/// `envoy.extensions.transport_sockets.tls.v3.CertificateValidationContext`.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct CertificateValidationContext {
    /// Root certificates (PEM).
    #[prost(message, optional, tag = "1")]
    pub trusted_ca: Option<DataSource>,
}

/// `envoy.config.core.v3.DataSource`, limited to inline bytes.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
#[prost(skip_debug)]
pub struct DataSource {
    /// Contents.
    #[prost(bytes = "vec", tag = "2")]
    pub inline_bytes: Vec<u8>,
}

// === Debug without secrets ===

impl fmt::Debug for DiscoveryResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiscoveryResponse")
            .field("version_info", &self.version_info)
            .field("nonce", &self.nonce)
            .field("resources", &self.resources.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for SecretKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TlsCertificate(_) => "TlsCertificate",
            Self::ValidationContext(_) => "ValidationContext",
        })
    }
}

impl fmt::Debug for TlsCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsCertificate").finish_non_exhaustive()
    }
}

impl fmt::Debug for DataSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataSource").finish_non_exhaustive()
    }
}
