//! Envoy resources of a mesh, generated from the mesh view without IO.
//!
//! The publisher in `kermode-xds` calls [`generate`] for the parts of the view that a change touched, and stores the
//! encoded [`Resource`]s. No crate besides this one and `kermode-xds` depends on Envoy's types.

pub mod generate;
pub mod names;
mod proto;
mod resource;

pub use resource::{OnDemand, Resource, ResourceKind};
