//! Parts of `make bench-dataplane`: injected Pods without a kubelet (`objects`), counts of the requests to the API
//! server (`requests`), and a watch that records when Dataplanes change (`watch`).

pub mod objects;
pub mod requests;
pub mod watch;
