//! SPIFFE identities: certificate authorities, issuance and rotation. No IO; the clock is passed in.
//!
//! The control plane keeps the [`RotationPlan`] of a mesh's [`Authority`]s and issues certificates with the names of a
//! Dataplane's [`Entitlement`]. The sidecar agent keeps its [`WorkloadKey`] in memory and renews its certificate at the
//! times of the [`RenewalTimer`]. Control plane and agent exchange the messages of `kermode-protocol`.

mod authority;
mod bundle;
mod certificate;
mod csr;
mod error;
mod issuer;
mod pem;
mod renewal;
mod rotation_plan;
mod serving;
mod spiffe;
mod workload;

pub use authority::Authority;
pub use bundle::TrustBundle;
pub use certificate::{BACKDATE, IssuedCertificate, Validity};
pub use csr::SigningRequest;
pub use error::Error;
pub use renewal::{RemainingLifetime, RenewalStep, RenewalTimer};
pub use rotation_plan::{Generation, MAX_STALENESS, Phase, RotationPlan, RotationReason, Schedule, Trust};
pub use serving::{IssuedServingCertificate, ServingAuthority};
pub use spiffe::{Entitlement, SpiffeId};
pub use workload::WorkloadKey;
