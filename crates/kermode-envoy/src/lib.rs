//! From the mesh view to Envoy: the resources of a mesh, and the bootstrap each Envoy starts with.
//!
//! Pure. The control plane calls [`generate`] for what a change touched and hands the [`Resource`]s, encoded
//! once, to `kermode-xds`; the sidecar agent calls [`bootstrap()`] at its start. The only crate besides
//! `kermode-xds` that sees Envoy's types.

mod bootstrap;
pub mod generate;
pub mod names;
mod proto;
mod resource;

pub use bootstrap::{AGENT_CLUSTER, BootstrapConfig, Versions, bootstrap};
pub use resource::{Resource, ResourceKind};
