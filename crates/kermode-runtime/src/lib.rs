//! Surroundings of a long-running binary: logging, traces, the diagnostics server, readiness, shutdown in two stages,
//! and TLS with certificates that are replaced while serving.

pub mod diagnostics;
pub mod logging;
pub mod readiness;
pub mod shutdown;
pub mod tcp;
pub mod tls;
#[cfg(feature = "opentelemetry")]
pub mod traces;
