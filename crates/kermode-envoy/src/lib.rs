//! Envoy configuration: generated resources and the bootstrap.

mod resource;

pub use resource::{Resource, ResourceKind};
