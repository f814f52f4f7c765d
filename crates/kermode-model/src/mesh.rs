//! The Mesh: settings that all proxies of a mesh share.

use std::time::Duration;

use crate::MeshName;

/// Default of the clock tolerance: the validity of a certificate starts this long before its issuance, so that a peer
/// whose clock is behind the issuer's clock by at most this time accepts the new certificate. The validity of a
/// certificate that Kubernetes signs also starts 5 minutes before its issuance. Therefore, a node whose clock is
/// accurate enough for the certificate of its kubelet is accurate enough for the mesh.
pub const DEFAULT_CLOCK_TOLERANCE: Duration = Duration::from_mins(5);
/// Maximum clock tolerance that can be configured.
pub const MAX_CLOCK_TOLERANCE: Duration = Duration::from_hours(1);

/// Settings of a Mesh resource (docs/reference/resources.md#mesh).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mesh {
    /// Name of the Mesh resource.
    pub name: MeshName,
    /// Mutual TLS; `None` without an enabled backend.
    pub mtls: Option<Mtls>,
    /// Whether proxies pass through traffic to addresses outside the mesh (`networking.outbound.passthrough`).
    pub outbound_passthrough: bool,
    /// Whether proxies pass through connections to ports of their Pod that have no inbound
    /// (`networking.inbound.passthrough`); `None` if the Mesh resource does not say.
    pub inbound_passthrough: Option<bool>,
}

impl Mesh {
    /// The settings of an empty Mesh resource: no mTLS, passthrough on.
    pub fn new(name: impl Into<MeshName>) -> Self {
        Self {
            name: name.into(),
            mtls: None,
            outbound_passthrough: true,
            inbound_passthrough: None,
        }
    }

    /// Whether proxies pass through connections to ports of their Pod that have no inbound
    /// (docs/design.md#strict-covers-every-port).
    pub fn passes_through_inbound(&self) -> bool {
        let is_strict = self
            .mtls
            .as_ref()
            .is_some_and(|mtls| mtls.mode == MtlsMode::Strict);
        self.inbound_passthrough.unwrap_or(!is_strict)
    }
}

/// The enabled mTLS backend of a mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mtls {
    /// Name of the backend in the Mesh resource; part of the name of the CA's Secrets.
    pub backend: String,
    /// Connections that inbounds accept.
    pub mode: MtlsMode,
    /// Issuer of the certificates.
    pub authority: CertificateAuthority,
    /// Lifetime of a workload certificate (`dpCert.rotation.expiration`, 24 h unless set).
    pub certificate_lifetime: Duration,
}

/// Connections that an inbound accepts in a mesh with mTLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MtlsMode {
    /// Only TLS with a certificate of the mesh.
    #[default]
    Strict,
    /// Also plain text and TLS of the application.
    Permissive,
}

/// Issuer of a mesh's certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateAuthority {
    /// A CA that the control plane generates and stores in a Secret.
    Builtin,
}
