//! Tests of rules and dashboards: Prometheus' own tool checks and tests them, and every metric and label in an expression
//! is compared with the reference of metrics.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "clippy exempts test functions, but not their helpers"
)]

mod dashboards;
mod exports;
mod expression;
mod objects;
mod promtool;
mod rules;
