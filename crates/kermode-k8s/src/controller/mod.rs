//! Kubernetes IO: watches objects, and writes Dataplanes, default objects, Secrets, Events, webhook registrations, and the
//! ConfigMaps with the control plane's roots and with virtual IPs.
//!
//! All replicas watch. Only the leader ([`lease`]) writes Dataplanes, their Events, and the ConfigMaps.

pub mod client;
pub mod defaults;
pub mod failure;
pub mod lease;
pub mod preflight;
pub mod recorder;
pub mod registration;
pub mod roots;
pub mod secret;
pub mod status;
pub mod virtual_ips;
pub mod watch;
pub mod writer;

pub use failure::describe;
