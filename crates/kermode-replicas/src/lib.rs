//! Replicas of the control plane: [`tracking`] of the running ones, and [`rebalancing`] of proxies from a replica that
//! has too many to the others.

pub mod rebalancing;
pub mod tracking;
