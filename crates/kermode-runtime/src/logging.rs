//! Structured logs on standard error.

use tracing::Subscriber;
use tracing_subscriber::layer::{Layer, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, fmt};

/// Format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// One line of text for each event.
    #[default]
    Text,
    /// One JSON object for each event.
    Json,
}

/// Error of an invalid log level or filter.
#[derive(Debug, thiserror::Error)]
#[error("log level {0:?} is unknown: use error, warn, info, debug or trace")]
pub struct UnknownLevel(String);

/// Starts logging. `level` is a level, or a filter such as `info,kermode_xds=debug`.
///
/// # Errors
/// If the level is invalid.
pub fn init(level: &str, format: Format) -> Result<(), UnknownLevel> {
    // Only tests initialize logging twice. The second call has no effect.
    let _ = Registry::default().with(layer(level, format)?).try_init();
    Ok(())
}

/// Starts logging, and the export of traces if `traces` is present.
///
/// # Errors
/// If the level is invalid.
#[cfg(feature = "opentelemetry")]
pub fn init_with_traces(
    level: &str,
    format: Format,
    traces: Option<&crate::traces::Traces>,
) -> Result<(), UnknownLevel> {
    let traces = traces.map(crate::traces::Traces::layer);
    // As in `init`, a second call has no effect.
    let _ = Registry::default()
        .with(layer(level, format)?)
        .with(traces)
        .try_init();
    Ok(())
}

fn layer<S>(level: &str, format: Format) -> Result<Box<dyn Layer<S> + Send + Sync>, UnknownLevel>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    let filter = EnvFilter::try_new(level).map_err(|_| UnknownLevel(level.to_owned()))?;
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    Ok(match format {
        Format::Text => lines.with_filter(filter).boxed(),
        Format::Json => lines.json().with_filter(filter).boxed(),
    })
}
