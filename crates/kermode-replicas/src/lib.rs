//! The replicas of the control plane: which of them run ([`tracking`]), and how proxies are moved from a replica that
//! has too many to the others ([`rebalancing`]).

pub mod rebalancing;
pub mod tracking;
