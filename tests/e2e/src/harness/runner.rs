//! Runs tests one after the other, prints a line for each, and lets none hide another.

use std::fmt;
use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::future::LocalBoxFuture;

use super::diagnosis;
use crate::world::World;

/// How long a test may take, however many conditions it waits for, beside outages of a length that is chosen.
const LIMIT: Duration = Duration::from_mins(3);

/// What a test tells beyond having passed: numbers worth reading.
pub(crate) type Note = String;

/// A test.
pub(crate) struct Test {
    /// What it shows, as a sentence.
    pub(crate) name: &'static str,
    run: fn(&World) -> LocalBoxFuture<'_, Result<Note>>,
}

/// How many passed and failed.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) passed: u32,
    pub(crate) failed: u32,
}

impl Test {
    pub(crate) fn new(name: &'static str, run: fn(&World) -> LocalBoxFuture<'_, Result<Note>>) -> Self {
        Self { name, run }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} passed, {} failed", self.passed, self.failed)
    }
}

/// Runs all tests in their order.
pub(crate) async fn run(world: &World, tests: &[Test]) -> Report {
    let mut report = Report::default();
    for test in tests {
        let start = Instant::now();
        let limit = LIMIT + world.config.outage;
        let outcome = tokio::time::timeout(limit, (test.run)(world))
            .await
            .with_context(|| format!("not done after {limit:?}"))
            .flatten();
        let seconds = start.elapsed().as_secs_f32();
        match outcome {
            Ok(note) => {
                report.passed += 1;
                let dash = if note.is_empty() { "" } else { ": " };
                say(&format!("ok     {} ({seconds:.1} s){dash}{note}", test.name));
            }
            Err(error) => {
                report.failed += 1;
                say(&format!("FAILED {} ({seconds:.1} s): {error:#}", test.name));
                say(&diagnosis::collect(world, test.name).await);
            }
        }
    }
    report
}

/// Prints lines. Nobody is left to be told when that fails.
pub(crate) fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}");
    let _ = out.flush();
}
