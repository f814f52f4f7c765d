//! Benchmarks of release builds. The control plane runs as a process of its own, and its CPU time and memory are read
//! from `/proc`.
//!
//! ```text
//! kumactl ──manifests──▶ API server ◀── kuma-cp (a process) ◀──load── clients
//!                          /proc of kuma-cp ──▶ figures ──▶ target/bench/NAME.json
//! ```
//!
//! `exchange` uses neither a cluster nor a control plane. It measures connections alone, for comparison.
//! `direct-access` measures an Envoy that the ADS server of the same process configures. `dns` measures `kuma-dp` beside
//! CoreDNS. `latency` measures two sidecars beside two bare Envoys. `start` measures the starts of a real sidecar, and
//! `soak` its memory over many reconnections. `cni` measures the CNI plugin, which `cnitool` runs.
//!
//! Other processes may use the machine at the same time. Therefore CPU time and ratios are more reliable than wall
//! time, and most figures are the median of several rounds, shown with their spread.

pub mod cluster;
pub mod cni;
pub mod config;
pub mod control_plane;
pub mod dataplane;
pub mod direct_access;
pub mod dns;
mod envoy;
pub mod exchange;
pub mod figures;
pub mod https;
pub mod latency;
mod mesh;
pub mod process;
pub mod sidecars;
pub mod spread;
pub mod start;
pub mod unstable_network;
pub mod webhook;
