//! Delta ADS: publisher, resource store, state machine of a stream, and gRPC server.
//!
//! ```text
//! mesh view ──publisher──▶ store ──stream (no IO)──▶ server ──gRPC──▶ kuma-dp ──unix socket──▶ Envoy
//! ```

pub mod publisher;
pub mod server;
pub mod store;
pub mod stream;
