//! Kubernetes IO around the pure stages: watches in, Dataplanes, Events and webhook registrations out.
//!
//! Every replica watches; the one that holds the [`lease`] writes.

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
