//! Simulated sidecars: connections to the control plane that send the requests of an Envoy behind `kuma-dp`.
//!
//! Thousands of them run on one thread beside the control plane under test, so they only count what they receive.
//! `http2` implements the part of HTTP/2 that one gRPC stream needs, `envoy` the required part of delta ADS, and `probes` record when
//! an expected change arrives.

mod client;
mod envoy;
pub mod fleet;
pub(crate) mod http2;
pub mod population;
pub mod probes;
