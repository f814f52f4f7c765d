//! Benchmarks: the released programs, started as users start them, measured from outside.
//!
//! ```text
//! api-only cluster ──manifests──▶ kuma-cp (a process) ◀──load── client      /proc ──▶ figures ──▶ target/bench/NAME.json
//! ```
//!
//! One is for comparison and starts none of these: `exchange`, what connections cost without a control plane.
//!
//! Other work may share the machine, so CPU time and ratios count before wall time, and everything is measured in
//! several rounds whose spread is shown.

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
