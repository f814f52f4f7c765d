//! Runs tests sequentially and prints one line for each; a failure does not stop later tests.

use std::fmt;
use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::future::LocalBoxFuture;

use super::diagnosis;
use crate::fixture::Fixture;

/// Time limit of a test. The configured length of the API server's outage is added to it.
const TEST_TIMEOUT: Duration = Duration::from_mins(3);

/// Measurements that a passed test reports as text, such as the number of requests; may be empty.
pub(crate) type Note = String;

/// An end-to-end test.
pub(crate) struct Test {
    /// Module and function of the test; the function's name states the tested behaviour.
    pub(crate) name: &'static str,
    run: fn(&Fixture) -> LocalBoxFuture<'_, Result<Note>>,
}

/// Numbers of tests that passed and failed.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) passed: u32,
    pub(crate) failed: u32,
}

impl Test {
    pub(crate) fn new(name: &'static str, run: fn(&Fixture) -> LocalBoxFuture<'_, Result<Note>>) -> Self {
        Self { name, run }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} passed, {} failed", self.passed, self.failed)
    }
}

/// Runs all tests in their order.
pub(crate) async fn run(fixture: &Fixture, tests: &[Test]) -> Report {
    let mut report = Report::default();
    for test in tests {
        let start = Instant::now();
        let timeout = TEST_TIMEOUT + fixture.config.outage;
        let outcome = tokio::time::timeout(timeout, (test.run)(fixture))
            .await
            .with_context(|| format!("the test has not ended after {timeout:?}"))
            .flatten();
        let seconds = start.elapsed().as_secs_f32();
        match outcome {
            Ok(note) => {
                report.passed += 1;
                let separator = if note.is_empty() { "" } else { ": " };
                print_line(&format!("ok     {} ({seconds:.1} s){separator}{note}", test.name));
            }
            Err(error) => {
                report.failed += 1;
                print_line(&format!("FAILED {} ({seconds:.1} s): {error:#}", test.name));
                print_line(&diagnosis::write(fixture, test.name).await);
            }
        }
    }
    report
}

/// Prints a line to the standard output; errors are ignored.
pub(crate) fn print_line(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}");
    let _ = out.flush();
}
