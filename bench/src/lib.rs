//! Benchmarks: the released programs, started as users start them, measured from outside.
//!
//! ```text
//! api-only cluster ──manifests──▶ kuma-cp (a process) ◀──load── client      /proc ──▶ figures ──▶ target/bench/NAME.json
//! ```
//!
//! `exchange` starts none of these: it measures connections without a control plane, for comparison.
//!
//! Other work may share the machine. So CPU time and ratios are more reliable than wall time, and most figures are the
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
