//! From the mesh view to Envoy: the resources of a mesh.
//!
//! Pure. The control plane calls [`generate`] for what a change touched and hands the [`Resource`]s, encoded
//! once, to `kermode-xds`. The only crate besides `kermode-xds` that sees Envoy's types.

pub mod generate;
pub mod names;
mod proto;
mod resource;

pub use resource::{OnDemand, Resource, ResourceKind};
