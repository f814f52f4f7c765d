//! Dataplanes at scale: injected Pods without a kubelet, a watch that records when their Dataplanes change, and counts of the
//! API server's requests.

pub mod notes;
pub mod population;
pub mod requests;
