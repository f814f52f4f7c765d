//! Running the suites and telling what came of it.

use std::collections::BTreeMap;
use std::io::{self, Write};

use anyhow::{Context, Result, bail};
use serde_json::Value;

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
    /// Cases that passed with a known deviation of their own, and the decision behind it.
    pub deviating: Vec<(String, String)>,
    /// Deviations of every case that fits, with how many cases passed with them.
    pub general: BTreeMap<String, usize>,
    /// Cases that failed, and the lines that say how.
    pub failed: Vec<(String, Vec<String>)>,
    /// Cases that were not run, and why.
    pub skipped: Vec<(String, String)>,
}

enum Verdict {
    /// As the corpus has it, but for these general deviations.
    Passed(Vec<String>),
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
            Verdict::Passed(general) => {
                report.passed.push(id);
                for deviation in general {
                    *report.general.entry(deviation).or_default() += 1;
                }
            }
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
    let (expected, actual) = match runner.run(case) {
        Err(error) => return Verdict::Failed(vec![format!("{error:#}")]),
        Ok(Outcome::Skipped(reason)) => return Verdict::Skipped(reason),
        Ok(Outcome::Compared { expected, actual }) => (expected, actual),
    };
    let out_of_date = difference(&expected, &actual).is_empty();
    let own = deviation_of(case, deviations);
    let ours = match own {
        None => Ok(expected),
        Some(deviation) => ours(case, expected, deviation, suites, deviations),
    };
    let (ours, general) = match ours.and_then(|ours| with_general(case, ours, deviations)) {
        Ok(ours) => ours,
        Err(error) => return Verdict::Failed(vec![format!("{error:#}")]),
    };
    if out_of_date && (own.is_some() || !general.is_empty()) {
        return Verdict::Failed(vec!["passes as it is: its deviation is out of date".to_owned()]);
    }
    let mut lines = difference(&ours, &actual);
    match (own, lines.is_empty()) {
        (None, true) => Verdict::Passed(general),
        (None, false) => Verdict::Failed(lines),
        (Some(own), true) => Verdict::Deviating(told(own)),
        (Some(_), false) => {
            lines.insert(0, "differs from its known deviation:".to_owned());
            Verdict::Failed(lines)
        }
    }
}

fn told(deviation: &Deviation) -> String {
    format!("{}: {}", deviation.decision, deviation.reason)
}

/// What we do, the deviations of every case that fits included, and which they are.
fn with_general(case: &Case<'_>, mut ours: Value, deviations: &[Deviation]) -> Result<(Value, Vec<String>)> {
    let mut general = Vec::new();
    for deviation in deviations {
        let concerns = deviation.is_general() && deviation.suite == case.document.name;
        if concerns && deviation.fits(case.json, &ours) {
            ours = deviation.apply(&ours)?;
            general.push(told(deviation));
        }
    }
    Ok((ours, general))
}

fn deviation_of<'d>(case: &Case<'_>, deviations: &'d [Deviation]) -> Option<&'d Deviation> {
    deviations
        .iter()
        .find(|deviation| deviation.suite == case.document.name && deviation.case == case.id())
}

/// What a known deviation says that we do.
fn ours(
    case: &Case<'_>,
    expected: Value,
    deviation: &Deviation,
    suites: &[Box<dyn Suite>],
    deviations: &[Deviation],
) -> Result<Value> {
    let Some(like) = &deviation.like else {
        return deviation.apply(&expected);
    };
    let model = case
        .document
        .cases()
        .into_iter()
        .find(|other| other.id() == like && like != case.id());
    let model = model.with_context(|| format!("the deviation is like {like}, which is no other case"))?;
    let runner = runner_of(suites, &model).context("the deviation is like a case without a runner")?;
    let Outcome::Compared { expected, .. } = runner.run(&model)? else {
        bail!("the deviation is like {like}, which is skipped");
    };
    let base = match deviation_of(&model, deviations) {
        Some(of_model) if of_model.like.is_none() => of_model.apply(&expected)?,
        Some(_) => bail!("the deviation is like {like}, which is like another"),
        None => expected,
    };
    deviation.apply(&base)
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
        for (deviation, cases) in &self.general {
            writeln!(out, "known deviation {} in {cases} cases: {deviation}", self.name)?;
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
