//! Running the suites and telling what came of it.

use std::collections::BTreeMap;
use std::io::{self, Write};

use crate::compare::difference;
use crate::corpus::{Case, Document};
use crate::deviation::Deviation;
use crate::suite::{Outcome, Suite, runner_of};

/// What came of one suite.
#[derive(Debug, Default)]
pub struct SuiteReport {
    /// Name of the suite.
    pub name: String,
    /// Identifiers of the cases that passed as the corpus has them.
    pub passed: Vec<String>,
    /// Cases that passed with a known deviation, and the decision behind it.
    pub deviating: Vec<(String, String)>,
    /// Cases that failed, and the lines that say how.
    pub failed: Vec<(String, Vec<String>)>,
    /// Cases that were not run, and why.
    pub skipped: Vec<(String, String)>,
}

enum Verdict {
    Passed,
    Deviating(String),
    Failed(Vec<String>),
    Skipped(String),
}

/// Runs all cases of a suite.
pub fn run(document: &Document, suites: &[Box<dyn Suite>], deviations: &[Deviation]) -> SuiteReport {
    let mut report = SuiteReport {
        name: document.name.clone(),
        ..SuiteReport::default()
    };
    for case in document.cases() {
        let id = case.id().to_owned();
        match judge(&case, suites, deviations) {
            Verdict::Passed => report.passed.push(id),
            Verdict::Deviating(decision) => report.deviating.push((id, decision)),
            Verdict::Failed(lines) => report.failed.push((id, lines)),
            Verdict::Skipped(reason) => report.skipped.push((id, reason)),
        }
    }
    report
}

fn judge(case: &Case<'_>, suites: &[Box<dyn Suite>], deviations: &[Deviation]) -> Verdict {
    let Some(runner) = runner_of(suites, case) else {
        return Verdict::Skipped(format!("NO RUNNER YET for kind {:?}", case.kind()));
    };
    let deviation = deviations
        .iter()
        .find(|deviation| deviation.suite == case.document.name && deviation.case == case.id());
    match (runner.run(case), deviation) {
        (Err(error), _) => Verdict::Failed(vec![format!("{error:#}")]),
        (Ok(Outcome::Skipped(reason)), _) => Verdict::Skipped(reason),
        (Ok(Outcome::Compared { expected, actual }), None) => match difference(&expected, &actual) {
            lines if lines.is_empty() => Verdict::Passed,
            lines => Verdict::Failed(lines),
        },
        (Ok(Outcome::Compared { expected, actual }), Some(deviation)) => {
            if difference(&expected, &actual).is_empty() {
                return Verdict::Failed(vec!["passes as it is: its deviation is out of date".to_owned()]);
            }
            match deviation.apply(&expected).map(|ours| difference(&ours, &actual)) {
                Ok(lines) if lines.is_empty() => Verdict::Deviating(deviation.decision.clone()),
                Ok(mut lines) => {
                    lines.insert(0, "differs from its known deviation:".to_owned());
                    Verdict::Failed(lines)
                }
                Err(error) => Verdict::Failed(vec![format!("{error:#}")]),
            }
        }
    }
}

// === impl SuiteReport ===

impl SuiteReport {
    /// Writes every failure with its differences, every deviation and skip with its reason, and the counts.
    ///
    /// # Errors
    /// When `out` cannot be written to.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        for (id, lines) in &self.failed {
            writeln!(out, "FAILED {} {id}", self.name)?;
            for line in lines {
                writeln!(out, "    {line}")?;
            }
        }
        for (id, decision) in &self.deviating {
            writeln!(out, "known deviation {} {id}: {decision}", self.name)?;
        }
        let mut by_reason: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (id, reason) in &self.skipped {
            by_reason.entry(reason).or_default().push(id);
        }
        for (reason, ids) in by_reason {
            writeln!(out, "SKIPPED {} {}: {reason}", self.name, ids.join(", "))?;
        }
        writeln!(
            out,
            "{}: {} passed, {} failed, {} skipped",
            self.name,
            self.passed.len() + self.deviating.len(),
            self.failed.len(),
            self.skipped.len()
        )
    }
}
