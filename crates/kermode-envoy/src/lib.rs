//! Envoy resources of a mesh, generated from the mesh view without IO.
//!
//! The publisher in `kermode-xds` calls [`generate`] for the parts of the view that a change touched, and stores the
//! encoded [`Resource`]s. Only this crate and `kermode-xds` depend on Envoy's types.

pub mod generate;
pub mod names;
mod proto;
mod resource;

pub use resource::{OnDemand, Resource, ResourceKind};
