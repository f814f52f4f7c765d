//! Output of the program. No other module prints.

use std::io::{ErrorKind, IsTerminal, Write, stdout};

use anyhow::{Context, Result};
use clap::ValueEnum;
use kermode_check::CheckOutcome;
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

/// Colors the word for an outcome if the standard output is a terminal with colors, and the variable `NO_COLOR` is not
/// set (<https://no-color.org>).
pub(crate) fn paint(outcome: CheckOutcome, word: &str) -> String {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let is_dumb = std::env::var_os("TERM").is_none_or(|terminal| terminal == "dumb");
    let has_colors = stdout().is_terminal() && !is_set("NO_COLOR") && !is_dumb;
    colored(outcome, word, has_colors)
}

fn colored(outcome: CheckOutcome, word: &str, has_colors: bool) -> String {
    if !has_colors {
        return word.to_owned();
    }
    let color = match outcome {
        CheckOutcome::Passed => 32,
        CheckOutcome::Warning | CheckOutcome::NotChecked => 33,
        CheckOutcome::Error => 31,
    };
    format!("\u{1b}[{color}m{word}\u{1b}[0m")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn word_has_escape_sequences_only_with_colors() {
        assert_eq!(colored(CheckOutcome::Error, "error", false), "error");
        assert_eq!(
            colored(CheckOutcome::Error, "error", true),
            "\u{1b}[31merror\u{1b}[0m"
        );
    }
}
