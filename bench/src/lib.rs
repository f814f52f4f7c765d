//! Benchmarks of the released programs, which are started as in production and measured from outside.
//!
//! ```text
//! api-only cluster ──manifests──▶ kuma-cp (a process) ◀──load── client      /proc ──▶ figures ──▶ target/bench/NAME.json
//! ```
//!
//! `exchange` uses neither a cluster nor a control plane. It measures bare connections, for comparison.
//!
//! Other work may share the machine. Therefore CPU time and ratios are more reliable than wall time, and most figures are the
//! median of several rounds, shown with their spread.

pub mod cluster;
pub mod config;
pub mod control_plane;
pub mod dataplane;
pub mod exchange;
pub mod figures;
pub mod https;
pub mod process;
pub mod sidecars;
pub mod spread;
pub mod webhook;
