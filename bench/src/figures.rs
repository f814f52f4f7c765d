//! Figures of a benchmark: a table on standard output and `target/bench/NAME.json`.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::spread::{Spread, short};

/// One figure.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figure {
    /// Name of the figure.
    pub figure: String,
    /// Median of the rounds.
    pub value: f64,
    /// Unit of the value.
    pub unit: &'static str,
    /// Target, such as `<= 30`; none for figures without one.
    pub target: Option<String>,
    /// Whether the target is met.
    pub met: Option<bool>,
}

/// Target of a figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    /// At most this.
    AtMost(f64),
    /// At least this.
    AtLeast(f64),
    /// No target: the figure is for information.
    None,
}

/// All figures of a benchmark. Each is printed when it is added.
#[derive(Debug, Default)]
pub struct Figures(Vec<Figure>);

// === impl Figures ===

impl Figures {
    /// Adds a figure.
    pub fn add(&mut self, figure: &str, rounds: &Spread, unit: &'static str, target: Target) {
        let value = rounds.median();
        let (text, met) = match target {
            Target::AtMost(most) => (Some(format!("<= {}", short(most))), Some(value <= most)),
            Target::AtLeast(least) => (Some(format!(">= {}", short(least))), Some(value >= least)),
            Target::None => (None, None),
        };
        let verdict = match (&text, met) {
            (Some(text), Some(true)) => format!("   target {text}: met"),
            (Some(text), _) => format!("   target {text}: MISSED"),
            (None, _) => String::new(),
        };
        print_line(&format!(
            "{figure:<46} {:>24} {unit}{verdict}",
            rounds.to_string()
        ));
        self.0.push(Figure {
            figure: figure.to_owned(),
            value,
            unit,
            target: text,
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
    fn figure_without_a_value_misses_its_target() {
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
