//! Kubernetes IO: watches objects, and writes Dataplanes, default objects, Secrets, Events, webhook registrations, and the
//! ConfigMaps with the control plane's roots and with virtual IPs, and NetworkAttachmentDefinitions.
//!
//! All replicas watch. Only the leader ([`lease`]) writes Dataplanes, their Events, the ConfigMaps and the NetworkAttachmentDefinitions.

pub mod client;
pub mod defaults;
pub mod failure;
pub mod lease;
pub mod network_attachments;
pub mod preflight;
pub mod recorder;
pub mod registration;
pub mod roots;
pub mod secret;
pub mod status;
#[cfg(test)]
mod test_api_server;
pub mod virtual_ips;
pub mod watch;
pub mod writer;
mod writes;

pub use failure::describe;
