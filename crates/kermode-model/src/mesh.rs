//! The Mesh: what its proxies have in common.

use std::time::Duration;

use crate::MeshName;

/// A mesh, as its Mesh resource describes it (BEHAVIOUR section 8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mesh {
    /// Name of the Mesh resource.
    pub name: MeshName,
    /// Mutual TLS, when a backend is enabled.
    pub mtls: Option<Mtls>,
    /// Whether traffic to addresses outside the mesh is let through (`networking.outbound.passthrough`).
    pub outbound_passthrough: bool,
}

impl Mesh {
    /// A mesh as an empty Mesh resource describes it: no mTLS, passthrough on.
    pub fn new(name: impl Into<MeshName>) -> Self {
        Self {
            name: name.into(),
            mtls: None,
            outbound_passthrough: true,
        }
    }
}

/// The enabled mTLS backend of a mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mtls {
    /// Name of the backend in the Mesh resource; part of the name of the CA's Secrets.
    pub backend: String,
    /// What inbounds accept.
    pub mode: MtlsMode,
    /// Who signs.
    pub authority: CertificateAuthority,
    /// Lifetime of a workload certificate (`dpCert.rotation.expiration`, 24 h unless set).
    pub certificate_lifetime: Duration,
}

/// What an inbound accepts once mTLS is on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MtlsMode {
    /// Only TLS with a certificate of the mesh.
    #[default]
    Strict,
    /// Plain text and the application's own TLS besides.
    Permissive,
}

/// Where a mesh's certificates come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateAuthority {
    /// A CA that the control plane makes and keeps in a Secret.
    Builtin,
}
