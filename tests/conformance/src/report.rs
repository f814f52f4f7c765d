//! Runs the cases of a suite and reports the results: the last stage.

use std::collections::BTreeMap;
use std::io::{self, Write};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::compare::difference;
use crate::corpus::{Case, Document};
use crate::deviation::Deviation;
use crate::suite::{Outcome, Runner, runner_of};

/// Results of one suite.
#[derive(Debug, Default)]
pub struct SuiteReport {
    /// Name of the suite.
    pub name: String,
    /// Identifiers of the cases that match the corpus.
    pub passed: Vec<String>,
    /// Cases that match their own known deviation, with the decision behind it.
    pub deviating: Vec<(String, String)>,
    /// Number of cases that match with a general deviation, by deviation.
    pub general: BTreeMap<String, usize>,
    /// Cases that failed, with their differences.
    pub failed: Vec<(String, Vec<String>)>,
    /// Cases that were not run, with the reason.
    pub skipped: Vec<(String, String)>,
}

enum Verdict {
    /// Matches the corpus, apart from these general deviations.
    Passed(Vec<String>),
    Deviating(String),
    Failed(Vec<String>),
    Skipped(String),
}

/// Runs all cases of a suite.
pub fn run(document: &Document, runners: &[Box<dyn Runner>], deviations: &[Deviation]) -> SuiteReport {
    let mut report = SuiteReport {
        name: document.name.clone(),
        ..SuiteReport::default()
    };
    for case in document.cases() {
        let id = case.id().to_owned();
        match judge(&case, runners, deviations) {
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

fn judge(case: &Case<'_>, runners: &[Box<dyn Runner>], deviations: &[Deviation]) -> Verdict {
    let Some(runner) = runner_of(runners, case) else {
        return Verdict::Skipped(format!("NO RUNNER YET for kind {:?}", case.kind()));
    };
    let (expected, actual) = match runner.run(case) {
        Err(error) => return Verdict::Failed(vec![format!("{error:#}")]),
        Ok(Outcome::Skipped(reason)) => return Verdict::Skipped(reason),
        Ok(Outcome::Compared { expected, actual }) => (expected, actual),
    };
    let matches_corpus = difference(&expected, &actual).is_empty();
    let own = deviation_of(case, deviations);
    let target = match own {
        None => Ok(expected),
        Some(deviation) => with_own(case, expected, deviation, runners, deviations),
    };
    let (target, general) = match target.and_then(|target| with_general(case, target, deviations)) {
        Ok(target) => target,
        Err(error) => return Verdict::Failed(vec![format!("{error:#}")]),
    };
    if matches_corpus && (own.is_some() || !general.is_empty()) {
        return Verdict::Failed(vec![
            "matches the corpus: remove its deviation from deviations.yaml".to_owned(),
        ]);
    }
    let mut lines = difference(&target, &actual);
    match (own, lines.is_empty()) {
        (None, true) => Verdict::Passed(general),
        (None, false) => Verdict::Failed(lines),
        (Some(own), true) => Verdict::Deviating(description(own)),
        (Some(_), false) => {
            lines.insert(0, "differs from its known deviation:".to_owned());
            Verdict::Failed(lines)
        }
    }
}

fn description(deviation: &Deviation) -> String {
    format!("{}: {}", deviation.decision, deviation.reason)
}

/// Applies the general deviations that fit the case. Returns the result and the deviations.
fn with_general(
    case: &Case<'_>,
    mut target: Value,
    deviations: &[Deviation],
) -> Result<(Value, Vec<String>)> {
    let mut general = Vec::new();
    for deviation in deviations {
        let applicable = deviation.is_general() && deviation.suite == case.document.name;
        if applicable && deviation.fits(case.json, &target) {
            target = deviation.apply(&target)?;
            general.push(description(deviation));
        }
    }
    Ok((target, general))
}

fn deviation_of<'d>(case: &Case<'_>, deviations: &'d [Deviation]) -> Option<&'d Deviation> {
    deviations
        .iter()
        .find(|deviation| deviation.suite == case.document.name && deviation.case == case.id())
}

/// Applies the deviation of a single case.
fn with_own(
    case: &Case<'_>,
    expected: Value,
    deviation: &Deviation,
    runners: &[Box<dyn Runner>],
    deviations: &[Deviation],
) -> Result<Value> {
    let Some(like) = &deviation.like else {
        return deviation.apply(&expected);
    };
    let base_case = case
        .document
        .cases()
        .into_iter()
        .find(|other| other.id() == like && like != case.id());
    let base_case = base_case.with_context(|| {
        format!("`like` of the deviation names {like}, which is not another case of the suite")
    })?;
    let runner =
        runner_of(runners, &base_case).context("`like` of the deviation names a case without a runner")?;
    let Outcome::Compared { expected, .. } = runner.run(&base_case)? else {
        bail!("`like` of the deviation names {like}, which is skipped");
    };
    let base = match deviation_of(&base_case, deviations) {
        Some(deviation) if deviation.like.is_none() => deviation.apply(&expected)?,
        Some(_) => bail!("`like` of the deviation names {like}, whose deviation has `like` itself"),
        None => expected,
    };
    deviation.apply(&base)
}

// === impl SuiteReport ===

impl SuiteReport {
    /// Writes every failure with its differences, every deviation and skip with its reason, and the counts.
    ///
    /// # Errors
    /// Writing to `out` fails.
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
