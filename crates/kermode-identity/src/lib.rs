//! SPIFFE identities: certificate authority, issuing and rotation, clock passed in.
//!
//! The control plane holds the [`Succession`] of a mesh's [`Authority`]s and signs what a Dataplane's [`Entitlement`] allows; `kuma-dp`
//! holds a [`WorkloadKey`] that never leaves its memory and decides with [`Rotation`] when to ask again. The two
//! speak the messages of `kermode-protocol`. Nothing here does IO.

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
