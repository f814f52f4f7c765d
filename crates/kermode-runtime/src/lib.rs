//! Parts that every long-running binary needs: logging, traces, the diagnostics server, readiness, shutdown in two
//! stages, options of TCP sockets, and TLS with certificates that are replaced while serving.

pub mod diagnostics;
pub mod logging;
pub mod readiness;
pub mod shutdown;
pub mod tcp;
pub mod tls;
#[cfg(feature = "opentelemetry")]
pub mod traces;
