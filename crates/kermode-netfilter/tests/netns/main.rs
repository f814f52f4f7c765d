//! Tests of the nftables rules in real network namespaces: which server accepts a connection, and which addresses the
//! server sees.
//!
//! Requires root (`make test-netns`). The namespaces are anonymous, so they do not outlive their test, even after a
//! panic.

#![allow(clippy::expect_used, clippy::panic, reason = "a panic fails the test")]

#[path = "../support/golden.rs"]
mod golden;

mod applying;
mod dns;
mod exclusions;
mod icmp;
mod inbound;
mod lab;
mod outbound;
mod udp;
