//! Components of the sidecar agent. The program `kuma-dp` reads the configuration and connects the components. Each
//! component runs until its future is dropped.
//!
//! ```text
//! control plane ──ADS──▶ relay ───┐
//!               ──RPC──▶ completion ──▶ supervisor, in a classic sidecar
//!               ──RPC──▶ certificate ──▶ sds ──unix socket──▶ Envoy ◀── supervisor, shutdown, restarts
//! Envoy ──access log──▶ closed_ports ──RPC──▶ control plane
//! kubelet ──HTTP──▶ Envoy ──unix socket──▶ probes ──TCP, gRPC──▶ application
//! application ──port 53, redirected──▶ dns ──▶ name servers of the Pod
//!                                           ──RPC──▶ control plane, for names of the mesh
//! ```
//!
//! The preStop hook of a native sidecar reports the termination of the Pod ([`termination`]). During a drain, [`removal`]
//! watches the removal of the sidecar's endpoint.

mod backoff;
pub mod certificate;
pub mod closed_ports;
pub mod completion;
mod connector;
pub mod control_plane;
pub mod dns;
pub mod envoy;
pub mod metrics;
pub mod probes;
pub mod relay;
pub mod removal;
pub mod resolver;
mod restarts;
pub mod sds;
pub mod shutdown;
pub mod socket;
pub mod supervisor;
pub mod termination;
pub mod token;
pub mod wait;
