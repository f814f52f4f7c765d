//! Replicas of the control plane. [`tracking`] finds the running replicas. [`rebalancing`] moves proxies from a replica
//! that has too many proxies to the other replicas.

pub mod rebalancing;
pub mod tracking;
