//! Runs the tests of a cluster sequentially and prints one line for each; a failure does not stop later tests.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;
use std::ops::AddAssign;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::future::LocalBoxFuture;

use super::diagnosis;
use crate::fixture::Fixture;

/// Time limit of a test that is not long. The configured length of the API server's outage is added to it.
const TEST_TIMEOUT: Duration = Duration::from_mins(3);

/// Time limit of a long test.
const LONG_TEST_TIMEOUT: Duration = Duration::from_mins(20);

/// Measurements that a passed test reports as text, such as the number of requests; may be empty.
pub(crate) type Note = String;

/// An end-to-end test.
pub(crate) struct Test {
    /// Module and function of the test; the function's name states the tested behaviour.
    pub(crate) name: &'static str,
    /// Cluster of the test. The tests of different clusters run at the same time.
    cluster: &'static str,
    /// Whether the test runs only on request, because it takes long or loads the machine.
    pub(crate) is_long: bool,
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
        Self {
            name,
            cluster: "e2e",
            is_long: false,
            run,
        }
    }

    /// Returns this test with another cluster than `e2e`.
    pub(crate) fn on(self, cluster: &'static str) -> Self {
        Self { cluster, ..self }
    }

    /// Returns this test as a long one.
    pub(crate) fn long(self) -> Self {
        Self {
            is_long: true,
            ..self
        }
    }
}

/// Returns the tests to run: those whose name contains `filter`. Long tests are left out, unless `with_long` is set or
/// `filter` matches only long tests.
pub(crate) fn select(mut tests: Vec<Test>, filter: Option<&str>, with_long: bool) -> Vec<Test> {
    if let Some(text) = filter {
        tests.retain(|test| test.name.contains(text));
    }
    if !with_long && tests.iter().any(|test| !test.is_long) {
        tests.retain(|test| !test.is_long);
    }
    tests
}

/// Returns the tests of each cluster in their order. If `cluster` is set, all tests are for this one.
pub(crate) fn by_cluster(tests: Vec<Test>, cluster: Option<&str>) -> BTreeMap<String, Vec<Test>> {
    let mut groups: BTreeMap<String, Vec<Test>> = BTreeMap::new();
    for test in tests {
        let name = cluster.unwrap_or(test.cluster).to_owned();
        groups.entry(name).or_default().push(test);
    }
    groups
}

impl AddAssign for Report {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
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
        let limit = if test.is_long {
            LONG_TEST_TIMEOUT
        } else {
            TEST_TIMEOUT
        };
        let timeout = limit + fixture.config.outage;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_tests() -> Vec<Test> {
        let test = |name| Test::new(name, |_| Box::pin(async { Ok(String::new()) }));
        vec![
            test("admission::short"),
            test("admission::under_load").long(),
            test("mesh::short"),
        ]
    }

    #[test]
    fn tests_keep_their_order_on_each_cluster_and_all_run_on_a_given_one() {
        let mk = || {
            let mut tests = mk_tests();
            tests.push(mk_tests().remove(0).on("e2e-faults"));
            tests
        };
        let counts = |groups: BTreeMap<String, Vec<Test>>| {
            let groups = groups.into_iter();
            groups
                .map(|(cluster, tests)| (cluster, tests.len()))
                .collect::<Vec<_>>()
        };
        let of_each = by_cluster(mk(), None);
        let names: Vec<_> = of_each["e2e"].iter().map(|test| test.name).collect();
        assert_eq!(
            names,
            ["admission::short", "admission::under_load", "mesh::short"]
        );
        assert_eq!(
            counts(of_each),
            [("e2e".to_owned(), 3), ("e2e-faults".to_owned(), 1)]
        );
        assert_eq!(counts(by_cluster(mk(), Some("mine"))), [("mine".to_owned(), 4)]);
    }

    #[test]
    fn long_tests_are_selected_on_request_or_by_a_filter_that_matches_only_long_tests() {
        let selected = |filter, with_long| {
            let tests = select(mk_tests(), filter, with_long);
            tests.iter().map(|test| test.name).collect::<Vec<_>>()
        };
        assert_eq!(selected(None, false), ["admission::short", "mesh::short"]);
        assert_eq!(selected(None, true).len(), 3);
        assert_eq!(selected(Some("admission"), false), ["admission::short"]);
        assert_eq!(
            selected(Some("admission"), true),
            ["admission::short", "admission::under_load"]
        );
        assert_eq!(selected(Some("under_load"), false), ["admission::under_load"]);
        assert!(selected(Some("unknown"), true).is_empty());
    }
}
