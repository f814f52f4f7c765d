//! Prints the figures of a benchmark, and writes them to `target/bench/NAME.json`. A figure is a named result, usually
//! with a target. A benchmark measures each figure in several rounds.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::spread::{Spread, format_short};

/// Figure, as written to the JSON file.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figure {
    /// Name of the figure.
    pub figure: String,
    /// Median of the values of the rounds.
    pub value: f64,
    /// Unit of the value.
    pub unit: &'static str,
    /// Target, such as `<= 30`; `None` for a figure without target.
    pub target: Option<String>,
    /// Whether the target is met; `None` for a figure without target.
    pub met: Option<bool>,
}

/// Target of a figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    /// The value is at most this number.
    AtMost(f64),
    /// The value is at least this number.
    AtLeast(f64),
    /// No target: the figure is for information.
    None,
}

/// All figures of a benchmark.
#[derive(Debug, Default)]
pub struct Figures(Vec<Figure>);

// === impl Figures ===

impl Figures {
    /// Adds a figure and prints it. `rounds` are the values of the rounds.
    pub fn add(&mut self, figure: &str, rounds: &Spread, unit: &'static str, target: Target) {
        self.record(figure, rounds, unit, target);
        let Some(Figure { target, met, .. }) = self.0.last() else {
            return;
        };
        let verdict = match (target, met) {
            (Some(target), Some(true)) => format!("   target {target}: met"),
            (Some(target), _) => format!("   target {target}: MISSED"),
            (None, _) => String::new(),
        };
        print_line(&format!(
            "{figure:<46} {:>24} {unit}{verdict}",
            rounds.to_string()
        ));
    }

    /// Adds a figure without printing it. The caller prints it as part of a table.
    pub fn record(&mut self, figure: &str, rounds: &Spread, unit: &'static str, target: Target) {
        let value = rounds.median();
        let (target, met) = match target {
            Target::AtMost(limit) => (Some(format!("<= {}", format_short(limit))), Some(value <= limit)),
            Target::AtLeast(limit) => (Some(format!(">= {}", format_short(limit))), Some(value >= limit)),
            Target::None => (None, None),
        };
        self.0.push(Figure {
            figure: figure.to_owned(),
            value,
            unit,
            target,
            met,
        });
    }

    /// Writes the JSON file. Returns whether all targets are met.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<bool> {
        let text = serde_json::to_string_pretty(&self.0)? + "\n";
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
        print_line(&format!("figures written to {}", path.display()));
        Ok(self.0.iter().all(|figure| figure.met != Some(false)))
    }
}

/// Prints a line to standard output.
#[allow(clippy::print_stdout, reason = "the table is the output of a benchmark")]
pub fn print_line(line: &str) {
    println!("{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figure_without_rounds_misses_its_target() {
        let mut figures = Figures::default();
        for target in [Target::AtMost(1.0), Target::AtLeast(1.0)] {
            figures.add("f", &Spread::default(), "ms", target);
        }
        figures.add("g", &[2.0].into_iter().collect(), "ms", Target::None);
        assert_eq!(figures.0[0].met, Some(false));
        assert_eq!(figures.0[1].met, Some(false));
        assert_eq!(figures.0[2].met, None);
    }
}
