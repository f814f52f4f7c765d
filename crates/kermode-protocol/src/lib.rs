//! Messages between the control plane, the sidecar agent (`kuma-dp`) and Envoy, and the code that both ends of a call
//! share.
//!
//! | module | between |
//! |---|---|
//! | [`access_log`] | agent and Envoy: access log service (ALS) |
//! | [`ads`] | control plane and agent, agent and Envoy: configuration |
//! | [`certificates`] | control plane and agent: workload certificates and trust bundles |
//! | [`closed_ports`] | control plane and agent: ports to which Envoy closes connections |
//! | [`completion`] | control plane and agent: end of the application of a classic sidecar |
//! | [`metrics`] | agent and Envoy: scrapes of the sidecar by a collector of metrics |
//! | [`names`] | control plane and agent: addresses of the names that end in `.mesh` |
//! | [`probes`] | agent and Envoy: TCP and gRPC probes of the application |
//! | [`removals`] | control plane and agent: removal of the agent's own endpoint |
//! | [`secrets`] | agent and Envoy: secret discovery (SDS) |
//! | [`bootstrap`] | agent and Envoy: Envoy's start configuration |
//! | [`debug`] | control plane and operators' tools: responses of `/debug` |
//!
//! [`rpc`] adapts hand-written gRPC methods to tonic's router. [`client`] is the agent's client of the control plane.
//! Messages are structs that are written by hand after their protobuf definitions and derive `prost::Message`. So no
//! code generator runs, and crates that depend on this crate need not compile Envoy's full API.

pub mod access_log;
pub mod ads;
pub mod bootstrap;
pub mod certificates;
pub mod client;
pub mod closed_ports;
pub mod completion;
pub mod debug;
pub mod metrics;
pub mod names;
pub mod probes;
pub mod removals;
pub mod rpc;
pub mod secrets;
