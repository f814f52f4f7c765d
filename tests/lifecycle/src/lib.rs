//! Lifecycle scenarios: how many requests fail while servers start and end, in a mesh and without it.
//!
//! The same application runs in two namespaces of a cluster, one in the mesh and one without it. Clients send requests at
//! a fixed rate while a scenario replaces the servers of both namespaces. The scenarios use only the Kubernetes API. All
//! that they know about the mesh is in its settings.

pub mod case;
mod objects;
pub mod plot;
mod pod_watch;
pub mod report;
pub mod row;
pub mod run;
mod scenario;
pub mod settings;
mod side;

pub use side::Target;
