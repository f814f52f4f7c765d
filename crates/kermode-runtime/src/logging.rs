//! Structured logs on standard error.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people: one line an event.
    #[default]
    Text,
    /// For machines: one JSON object a line.
    Json,
}

/// The level is not one that can be set.
#[derive(Debug, thiserror::Error)]
#[error("log level {0:?} is unknown: use error, warn, info, debug or trace")]
pub struct UnknownLevel(String);

/// Starts logging. `level` is a level, or a filter such as `info,kermode_xds=debug`.
///
/// # Errors
/// When the level cannot be read.
pub fn init(level: &str, format: Format) -> Result<(), UnknownLevel> {
    let filter = EnvFilter::try_new(level).map_err(|_| UnknownLevel(level.to_owned()))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    // A second initialisation can only come from a test; the first one stays.
    let _ = match format {
        Format::Text => builder.with_ansi(false).finish().try_init(),
        Format::Json => builder.json().finish().try_init(),
    };
    Ok(())
}
