//! Builds the mesh view from Kubernetes objects, and writes Dataplanes and other objects to the API server.

pub mod controller;
pub mod convert;
pub mod index;
pub mod offline;
pub mod service_changes;
pub mod shared_index;
pub mod virtual_ips;
