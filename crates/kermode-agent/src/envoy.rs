//! Envoy: its command line, its process and its admin interface.

pub(crate) mod admin;
mod arguments;
mod exec;
mod process;

use std::num::{NonZeroU16, NonZeroU32};
use std::path::PathBuf;
use std::time::Duration;

pub use admin::Admin;
pub use arguments::arguments;
pub use exec::exec;
pub use process::Envoy;

/// Parameters of Envoy's process.
#[derive(Clone, Debug)]
pub struct EnvoyConfig {
    /// Path of the program.
    pub binary: PathBuf,
    /// Number of worker threads. `None`: one for each CPU that the process may use.
    pub concurrency: Option<NonZeroU32>,
    /// Log level in Envoy's notation.
    pub log_level: &'static str,
    /// Port of the admin interface on 127.0.0.1.
    pub admin_port: NonZeroU16,
    /// Maximum time for which Envoy keeps serving after the first termination signal to `kuma-dp`.
    pub drain_time: Duration,
}
