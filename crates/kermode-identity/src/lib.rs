//! SPIFFE identities: certificate authorities, issuance and rotation. No IO; the clock is passed in.
//!
//! The control plane issues certificates: [`RotationPlan`] selects the [`Authority`] that signs, and [`Entitlement`]
//! contains the names of the certificate. The sidecar agent requests certificates for its [`WorkloadKey`] at the times
//! of its [`RenewalTimer`].

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
pub use certificate::{IssuedCertificate, Term, Validity};
pub use csr::SigningRequest;
pub use error::Error;
pub use renewal::{RemainingLifetime, RenewalStep, RenewalTimer};
pub use rotation_plan::{
    Generation, MAX_STALENESS, Phase, RotatingAuthority, RotationPlan, RotationReason, Schedule, Trust,
};
pub use serving::{IssuedServingCertificate, ServingAuthority};
pub use spiffe::{Entitlement, SpiffeId};
pub use workload::WorkloadKey;
