//! What every long-running binary needs around its own work: configuration, logging, the diagnostics server,
//! readiness, shutdown in two stages, and TLS whose certificate can be replaced while serving.

pub mod config;
pub mod diagnostics;
pub mod logging;
pub mod readiness;
pub mod shutdown;
pub mod tcp;
pub mod tls;
#[cfg(feature = "opentelemetry")]
pub mod traces;
