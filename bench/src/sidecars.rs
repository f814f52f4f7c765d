//! Simulated sidecars: connections to the control plane that send the requests of an Envoy behind `kuma-dp`.
//!
//! Thousands of sidecars run on one thread, so they count the received resources instead of keeping them.
//!
//! `objects` creates the Pods and their tokens. `fleet` starts a task for each sidecar, and `client` implements this
//! task. `http2` implements the part of HTTP/2 that one gRPC stream needs, and `envoy` the part of delta ADS that Envoy
//! needs to become ready. `expected_changes` records when each sidecar receives a change.

mod client;
mod envoy;
pub mod expected_changes;
pub mod fleet;
pub(crate) mod http2;
pub mod objects;
