//! What a benchmark found, as a table for people and `target/bench/NAME.json` for machines.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::spread::{Spread, short};

/// One figure.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figure {
    /// What was measured.
    pub figure: String,
    /// How much; the middle of several rounds.
    pub value: f64,
    /// Of what.
    pub unit: &'static str,
    /// What it has to be, where it has to be something.
    pub target: Option<String>,
    /// Whether it is that.
    pub met: Option<bool>,
}

/// What a figure has to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    /// At most this.
    AtMost(f64),
    /// At least this.
    AtLeast(f64),
    /// It is for information only.
    None,
}

/// All figures of a benchmark. Lines are written to standard output as they come.
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
        say(&format!(
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

    /// Writes the file. Whether all targets are met.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<bool> {
        let text = serde_json::to_string_pretty(&self.0)? + "\n";
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
        say(&format!("written to {}", path.display()));
        Ok(self.0.iter().all(|figure| figure.met != Some(false)))
    }
}

/// Writes a line to standard output.
#[allow(clippy::print_stdout, reason = "the table is what a benchmark is run for")]
pub fn say(line: &str) {
    println!("{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_that_is_no_number_misses_its_target() {
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
