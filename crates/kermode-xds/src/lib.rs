//! Delta ADS: resource store, stream state machine, gRPC server and relay.
//!
//! ```text
//! mesh view ──snapshot──▶ store ──stream (no IO)──▶ server ──gRPC──▶ relay in kuma-dp ──unix socket──▶ Envoy
//! ```

pub mod server;
pub mod snapshot;
pub mod store;
pub mod stream;
