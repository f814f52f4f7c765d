//! The rules in real network namespaces: who answers a connection, and what the answerer sees.
//!
//! Needs root (`make test-netns`). Every namespace is anonymous, so nothing of it outlives its test, panics included.

#![allow(clippy::expect_used, clippy::panic, reason = "helpers of tests are tests")]

#[path = "../support/golden.rs"]
mod golden;

mod applying;
mod dns;
mod exclusions;
mod inbound;
mod lab;
mod outbound;
