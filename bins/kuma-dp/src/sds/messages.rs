//! The messages of the secret discovery service, as far as they are used here.
//!
//! Field numbers from Envoy's `envoy/service/discovery/v3/discovery.proto`,
//! `envoy/extensions/transport_sockets/tls/v3/{secret,common}.proto` and `envoy/config/core/v3/base.proto`. Derived by
//! hand: Envoy's generated types are forty megabytes of build for six messages.

/// `envoy.service.discovery.v3.DiscoveryRequest`.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub(crate) struct DiscoveryRequest {
    #[prost(string, tag = "1")]
    pub(crate) version_info: String,
    #[prost(string, repeated, tag = "3")]
    pub(crate) resource_names: Vec<String>,
    #[prost(string, tag = "4")]
    pub(crate) type_url: String,
    #[prost(string, tag = "5")]
    pub(crate) response_nonce: String,
    #[prost(message, optional, tag = "6")]
    pub(crate) error_detail: Option<Status>,
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub(crate) struct Status {
    #[prost(int32, tag = "1")]
    pub(crate) code: i32,
    #[prost(string, tag = "2")]
    pub(crate) message: String,
}

/// `envoy.service.discovery.v3.DiscoveryResponse`.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub(crate) struct DiscoveryResponse {
    #[prost(string, tag = "1")]
    pub(crate) version_info: String,
    #[prost(message, repeated, tag = "2")]
    pub(crate) resources: Vec<Any>,
    #[prost(string, tag = "4")]
    pub(crate) type_url: String,
    #[prost(string, tag = "5")]
    pub(crate) nonce: String,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub(crate) struct Any {
    #[prost(string, tag = "1")]
    pub(crate) type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) value: Vec<u8>,
}

/// `envoy.extensions.transport_sockets.tls.v3.Secret`. Not `Debug` by derivation: it holds the key.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
#[prost(skip_debug)]
pub(crate) struct Secret {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(oneof = "SecretKind", tags = "2, 4")]
    pub(crate) kind: Option<SecretKind>,
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secret")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// The two kinds of secret in use.
#[derive(Clone, PartialEq, Eq, Hash, prost::Oneof)]
#[prost(skip_debug)]
pub(crate) enum SecretKind {
    #[prost(message, tag = "2")]
    TlsCertificate(TlsCertificate),
    #[prost(message, tag = "4")]
    ValidationContext(CertificateValidationContext),
}

impl std::fmt::Debug for SecretKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::TlsCertificate(_) => "TlsCertificate",
            Self::ValidationContext(_) => "ValidationContext",
        })
    }
}

/// `envoy.extensions.transport_sockets.tls.v3.TlsCertificate`.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
#[prost(skip_debug)]
pub(crate) struct TlsCertificate {
    #[prost(message, optional, tag = "1")]
    pub(crate) certificate_chain: Option<DataSource>,
    #[prost(message, optional, tag = "2")]
    pub(crate) private_key: Option<DataSource>,
}

impl std::fmt::Debug for TlsCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsCertificate").finish_non_exhaustive()
    }
}

/// `envoy.extensions.transport_sockets.tls.v3.CertificateValidationContext`.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub(crate) struct CertificateValidationContext {
    #[prost(message, optional, tag = "1")]
    pub(crate) trusted_ca: Option<DataSource>,
}

/// `envoy.config.core.v3.DataSource` with its field `inline_bytes`.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
#[prost(skip_debug)]
pub(crate) struct DataSource {
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) inline_bytes: Vec<u8>,
}

impl std::fmt::Debug for DataSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DataSource").finish_non_exhaustive()
    }
}
