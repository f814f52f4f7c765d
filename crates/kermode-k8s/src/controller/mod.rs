//! Kubernetes IO: watches objects, and writes Dataplanes, default objects, Secrets, Events and webhook registrations.
//!
//! All replicas watch. Only the leader ([`lease`]) writes Dataplanes and their Events.

pub mod client;
pub mod defaults;
pub mod failure;
pub mod lease;
pub mod preflight;
pub mod recorder;
pub mod registration;
pub mod secret;
pub mod status;
pub mod watch;
pub mod writer;

pub use failure::describe;
