//! Dataplanes at scale: a population of injected Pods without a kubelet, a watch that notes when their Dataplanes
//! change, and counts of what the API server was asked.

pub mod notes;
pub mod population;
pub mod requests;
