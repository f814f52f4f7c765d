//! Output of the program. No other module prints.

use std::io::{ErrorKind, Write, stdout};

use anyhow::{Context, Result};
use clap::ValueEnum;
use kermode_manifests::yaml;
use serde::Serialize;

/// Writes the command's result to the standard output. A closed pipe (`| head`) is not an error.
pub(crate) fn print_result(text: &str) -> Result<()> {
    let mut stdout = stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome.context("cannot write to the standard output"),
    }
}

/// Format of a result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Text for people. It may change between versions.
    #[default]
    Text,
    /// JSON, for programs.
    Json,
    /// YAML, for programs.
    Yaml,
}

/// Formats a result as JSON or YAML; `text` is its text.
pub(crate) fn formatted(
    format: Format,
    result: &impl Serialize,
    text: impl FnOnce() -> String,
) -> Result<String> {
    Ok(match format {
        Format::Text => text(),
        Format::Json => format!("{}\n", serde_json::to_string_pretty(result)?),
        Format::Yaml => yaml::document(&serde_json::to_value(result)?)?,
    })
}

/// Prints a notice to the standard error.
#[allow(clippy::print_stderr, reason = "all notices are printed here")]
pub(crate) fn print_notice(kind: &str, text: &str) {
    eprintln!("{kind}: {text}");
}

/// Prints an error and its causes to the standard error.
#[allow(clippy::print_stderr, reason = "all errors are printed here")]
pub(crate) fn print_error(error: &anyhow::Error) {
    eprintln!("Error: {error:#}");
}
