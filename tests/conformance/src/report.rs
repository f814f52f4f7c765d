//! Runs the cases of a suite, compares their results with the corpus and the known deviations, and writes the report.
//!
//! A deviation ([`crate::deviation`]) belongs to one case, or is general: it applies to every case that fulfils a
//! condition.

use std::collections::BTreeMap;
use std::io::{self, Write};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::compare;
use crate::corpus::{Case, Suite};
use crate::deviation::Deviation;
use crate::suite::{Outcome, Runner, runner_of};

/// Results of one suite.
#[derive(Debug, Default)]
pub struct SuiteReport {
    /// Name of the suite.
    pub name: String,
    /// Identifiers of the cases without a deviation of their own, whose results equal the expected results after the
    /// general deviations were applied.
    pub passed: Vec<String>,
    /// Identifiers of the cases whose results equal the results that the cases' own deviations define, each with the
    /// description of the deviation.
    pub deviating: Vec<(String, String)>,
    /// Number of passed cases to which a general deviation applies, by the description of the deviation.
    pub general_deviations: BTreeMap<String, usize>,
    /// Identifiers of the failed cases, each with the lines that describe the failure.
    pub failed: Vec<(String, Vec<String>)>,
    /// Identifiers of the cases that were not run, each with the reason.
    pub skipped: Vec<(String, String)>,
}

/// Result of a case.
enum Verdict {
    /// The case has no deviation of its own, and its result equals the expected result after general deviations with
    /// these descriptions were applied.
    Passed(Vec<String>),
    /// The result equals the result that the case's own deviation defines. Contains the description of the deviation.
    Deviating(String),
    /// The result differs, or cannot be determined. Contains the lines that describe the failure.
    Failed(Vec<String>),
    /// The case was not run, for this reason.
    Skipped(String),
}

/// Runs all cases of a suite.
pub fn run(suite: &Suite, runners: &[Box<dyn Runner>], deviations: &[Deviation]) -> SuiteReport {
    let mut report = SuiteReport {
        name: suite.name.clone(),
        ..SuiteReport::default()
    };
    for case in suite.cases() {
        let id = case.id().to_owned();
        match run_case(&case, runners, deviations) {
            Verdict::Passed(general_descriptions) => {
                report.passed.push(id);
                for description in general_descriptions {
                    *report.general_deviations.entry(description).or_default() += 1;
                }
            }
            Verdict::Deviating(description) => report.deviating.push((id, description)),
            Verdict::Failed(lines) => report.failed.push((id, lines)),
            Verdict::Skipped(reason) => report.skipped.push((id, reason)),
        }
    }
    report
}

fn run_case(case: &Case<'_>, runners: &[Box<dyn Runner>], deviations: &[Deviation]) -> Verdict {
    let Some(runner) = runner_of(runners, case) else {
        return Verdict::Skipped(format!("NO RUNNER for cases of kind {:?}", case.kind()));
    };
    let compared: (_, _, fn(&Value, &Value) -> Vec<String>) = match runner.run(case) {
        Err(error) => return Verdict::Failed(vec![format!("{error:#}")]),
        Ok(Outcome::Skipped(reason)) => return Verdict::Skipped(reason),
        Ok(Outcome::Compared { expected, actual }) => (expected, actual, compare::differences),
        Ok(Outcome::Messages { expected, actual }) => (expected, actual, compare::message_differences),
    };
    let (expected, actual, differences) = compared;
    let matches_corpus = differences(&expected, &actual).is_empty();
    let own_deviation = deviation_of(case, deviations);
    let expected = match own_deviation {
        None => Ok(expected),
        Some(deviation) => apply_own_deviation(case, expected, deviation, runners, deviations),
    };
    let expected = expected.and_then(|expected| apply_general_deviations(case, expected, deviations));
    let (expected, general_descriptions) = match expected {
        Ok(applied) => applied,
        Err(error) => return Verdict::Failed(vec![format!("{error:#}")]),
    };
    if matches_corpus && (own_deviation.is_some() || !general_descriptions.is_empty()) {
        return Verdict::Failed(vec![
            "the result equals the result of the corpus: remove the deviation from deviations.yaml"
                .to_owned(),
        ]);
    }
    let mut lines = differences(&expected, &actual);
    match (own_deviation, lines.is_empty()) {
        (None, true) => Verdict::Passed(general_descriptions),
        (None, false) => Verdict::Failed(lines),
        (Some(deviation), true) => Verdict::Deviating(description(deviation)),
        (Some(_), false) => {
            lines.insert(
                0,
                "the result differs from the known deviation of the case:".to_owned(),
            );
            Verdict::Failed(lines)
        }
    }
}

/// Returns the description of a deviation: the heading of the documented decision that the case contradicts, and the
/// reason.
fn description(deviation: &Deviation) -> String {
    format!("{}: {}", deviation.decision, deviation.reason)
}

/// Applies the general deviations that apply to the case. Returns the result that Kermode must have, and the
/// descriptions of the deviations.
fn apply_general_deviations(
    case: &Case<'_>,
    mut expected: Value,
    deviations: &[Deviation],
) -> Result<(Value, Vec<String>)> {
    let mut general_descriptions = Vec::new();
    for deviation in deviations {
        let is_candidate = deviation.is_general() && deviation.suite == case.suite.name;
        if is_candidate && deviation.applies_to(case.json, &expected) {
            expected = deviation.apply(&expected)?;
            general_descriptions.push(description(deviation));
        }
    }
    Ok((expected, general_descriptions))
}

/// Returns the case's own deviation.
fn deviation_of<'d>(case: &Case<'_>, deviations: &'d [Deviation]) -> Option<&'d Deviation> {
    deviations
        .iter()
        .find(|deviation| deviation.suite == case.suite.name && deviation.case == case.id())
}

/// Applies the case's own deviation. Returns the result that Kermode must have for the case.
///
/// Without `base_case`, the deviation patches `expected`. With `base_case`, the deviation patches the result that
/// Kermode must have for another case of the suite, and `expected` is ignored.
fn apply_own_deviation(
    case: &Case<'_>,
    expected: Value,
    deviation: &Deviation,
    runners: &[Box<dyn Runner>],
    deviations: &[Deviation],
) -> Result<Value> {
    let Some(base_id) = &deviation.base_case else {
        return deviation.apply(&expected);
    };
    let base_case = case
        .suite
        .cases()
        .into_iter()
        .find(|other| other.id() == base_id && base_id != case.id());
    let base_case = base_case.with_context(|| {
        format!("`base_case` of the deviation is {base_id}, which is not another case of the suite")
    })?;
    let runner =
        runner_of(runners, &base_case).context("`base_case` of the deviation is a case without a runner")?;
    let Some(expected) = runner.run(&base_case)?.into_expected() else {
        bail!("`base_case` of the deviation is {base_id}, which is skipped");
    };
    let base = match deviation_of(&base_case, deviations) {
        Some(deviation) if deviation.base_case.is_none() => deviation.apply(&expected)?,
        Some(_) => bail!("`base_case` of the deviation is {base_id}, whose own deviation has a `base_case`"),
        None => expected,
    };
    deviation.apply(&base)
}

// === impl SuiteReport ===

impl SuiteReport {
    /// Writes the failed cases with their differences, the deviating and the skipped cases with the reasons, and the
    /// numbers of cases.
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
        for (id, description) in &self.deviating {
            writeln!(out, "known deviation {} {id}: {description}", self.name)?;
        }
        for (description, case_count) in &self.general_deviations {
            writeln!(
                out,
                "known deviation {} in {case_count} cases: {description}",
                self.name
            )?;
        }
        let mut by_reason: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (id, reason) in &self.skipped {
            by_reason.entry(reason).or_default().push(id);
        }
        for (reason, ids) in by_reason {
            writeln!(out, "SKIPPED {} {}: {reason}", self.name, ids.join(", "))?;
        }
        // A case whose result equals its known deviation counts as passed.
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
