//! Tests of the rules in real network namespaces: the server that accepts a connection, and the addresses that it sees.
//!
//! Requires root (`make test-netns`). The namespaces are anonymous, so they do not outlive their test, even after a panic.

#![allow(clippy::expect_used, clippy::panic, reason = "a panic fails the test")]

#[path = "../support/golden.rs"]
mod golden;

mod applying;
mod dns;
mod exclusions;
mod inbound;
mod lab;
mod outbound;
