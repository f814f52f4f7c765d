//! SPIFFE identities: certificate authorities, issuance and rotation. No IO; the clock is passed in.
//!
//! The control plane keeps the [`Succession`] of a mesh's [`Authority`]s and issues certificates with the names of a
//! Dataplane's [`Entitlement`]. The sidecar agent keeps its [`WorkloadKey`] in memory and renews its certificate when
//! [`Rotation`] says so. They exchange the messages of `kermode-protocol`.

mod authority;
mod bundle;
mod certificate;
mod csr;
mod error;
mod issuer;
mod pem;
mod rotation;
mod serving;
mod spiffe;
mod succession;
mod workload;

pub use authority::Authority;
pub use bundle::TrustBundle;
pub use certificate::{BACKDATE, IssuedCertificate, Validity};
pub use csr::SigningRequest;
pub use error::Error;
pub use rotation::{Remaining, Rotation, Step};
pub use serving::{ServingAuthority, ServingCertificate};
pub use spiffe::{Entitlement, SpiffeId};
pub use succession::{Due, Generation, Phase, STALENESS, Schedule, Succession, Trust};
pub use workload::WorkloadKey;
