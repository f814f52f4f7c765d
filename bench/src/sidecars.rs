//! Sidecars without Envoys: connections to the control plane that ask, and answer, as an Envoy behind `kuma-dp` does.
//!
//! Thousands of them live on one thread beside the control plane under test, so they keep nothing of what they get but
//! counts: `http2` speaks as much of HTTP/2 as one gRPC stream takes, `envoy` as much of delta ADS, `probes` note when
//! something that is waited for has arrived.

mod client;
mod envoy;
pub mod fleet;
mod http2;
pub mod population;
pub mod probes;
