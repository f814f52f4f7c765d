//! Delta ADS: publisher, resource store, state machine of a stream, and gRPC server.
//!
//! ```text
//! mesh view ──snapshot──▶ store ──stream (no IO)──▶ server ──gRPC──▶ kuma-dp ──unix socket──▶ Envoy
//! ```

pub mod server;
pub mod snapshot;
pub mod store;
pub mod stream;
