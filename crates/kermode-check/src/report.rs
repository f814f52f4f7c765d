//! The result of the checks, and its text.

use std::fmt::Write;

use serde::Serialize;

use crate::catalogue::{FindingKind, Severity};

/// Result of all checks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The checks in order.
    pub checks: Vec<Check>,
    /// Findings of all checks in their order.
    pub findings: Vec<Finding>,
}

/// Result of one check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    /// Subject of the check.
    pub name: &'static str,
    /// Outcome.
    pub outcome: CheckOutcome,
    /// Summary of the facts that the check has seen, or the reason why it was left out.
    pub summary: String,
    /// Findings of the check; in [`Report::findings`], too.
    #[serde(skip)]
    pub(crate) findings: Vec<Finding>,
}

/// Outcome of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum CheckOutcome {
    /// Nothing is wrong.
    Passed,
    /// All findings are warnings.
    Warning,
    /// At least one finding is an error.
    Error,
    /// The facts could not be collected, for example because the user lacks a permission.
    NotChecked,
}

/// Something that is wrong, with a remedy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Stable identifier.
    pub id: &'static str,
    /// Severity.
    pub severity: Severity,
    /// Object that the finding is about, for example `Node worker-1`.
    pub object: String,
    /// The problem.
    pub problem: String,
    /// The remedy.
    pub remedy: String,
    /// Section of the documentation.
    pub page: String,
}

/// Formats a text in a color of the terminal.
pub type Paint<'a> = &'a dyn Fn(CheckOutcome, &str) -> String;

// === impl Report ===

impl Report {
    pub(crate) fn new(mut checks: Vec<Check>) -> Self {
        let findings = checks
            .iter_mut()
            .flat_map(|check| std::mem::take(&mut check.findings))
            .collect();
        Self { checks, findings }
    }

    /// Whether at least one finding is an error.
    pub fn contains_error(&self) -> bool {
        self.findings
            .iter()
            .any(|finding| finding.severity == Severity::Error)
    }

    /// Formats the report for people. `paint` formats the word for an outcome.
    pub fn to_text(&self, paint: Paint<'_>) -> String {
        let width = self.checks.iter().map(|check| check.name.len()).max();
        let width = width.unwrap_or_default();
        let mut text = String::new();
        // Writing to a String cannot fail.
        for check in &self.checks {
            let word = paint(check.outcome, &format!("{:11}", check.outcome.word()));
            let summary = printable(&check.summary);
            let _ = writeln!(text, "{word} {:width$}  {summary}", check.name);
        }
        for finding in &self.findings {
            let (outcome, word) = match finding.severity {
                Severity::Error => (CheckOutcome::Error, "error"),
                Severity::Warning => (CheckOutcome::Warning, "warning"),
            };
            let _ = writeln!(
                text,
                "\n{} {}: {}: {}\n  remedy: {}\n  see {}",
                paint(outcome, word),
                finding.id,
                printable(&finding.object),
                printable(&finding.problem),
                printable(&finding.remedy),
                finding.page,
            );
        }
        let count = |severity: Severity| {
            let findings = self.findings.iter();
            findings.filter(|finding| finding.severity == severity).count()
        };
        let skipped = self
            .checks
            .iter()
            .filter(|check| check.outcome == CheckOutcome::NotChecked);
        let _ = writeln!(
            text,
            "\n{} errors, {} warnings, {} of {} checks left out",
            count(Severity::Error),
            count(Severity::Warning),
            skipped.count(),
            self.checks.len(),
        );
        text
    }
}

/// Replaces control characters, because names and messages come from other programs.
fn printable(text: &str) -> String {
    text.replace(char::is_control, " ")
}

// === impl Check ===

impl Check {
    /// Returns a check with what it has seen and its findings.
    pub(crate) fn new(name: &'static str, summary: impl Into<String>, findings: Vec<Finding>) -> Self {
        let severity = findings.iter().map(|finding| finding.severity).max();
        Self {
            name,
            outcome: match severity {
                None => CheckOutcome::Passed,
                Some(Severity::Warning) => CheckOutcome::Warning,
                Some(Severity::Error) => CheckOutcome::Error,
            },
            summary: summary.into(),
            findings,
        }
    }

    /// Returns a check that was left out, with the reason.
    pub(crate) fn left_out(name: &'static str, reason: impl Into<String>) -> Self {
        Self {
            name,
            outcome: CheckOutcome::NotChecked,
            summary: reason.into(),
            findings: Vec::new(),
        }
    }
}

// === impl CheckOutcome ===

impl CheckOutcome {
    fn word(self) -> &'static str {
        match self {
            Self::Passed => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::NotChecked => "not checked",
        }
    }
}

// === impl Finding ===

impl Finding {
    pub(crate) fn new(
        kind: FindingKind,
        object: impl Into<String>,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            id: kind.id(),
            severity: kind.severity(),
            object: object.into(),
            problem: problem.into(),
            remedy: remedy.into(),
            page: kind.page(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_lists_checks_then_findings_and_replaces_control_characters() {
        let finding = Finding::new(
            FindingKind::KernelTooOld,
            "Node a\u{1b}",
            "the kernel is 4.4",
            "update it",
        );
        let report = Report::new(vec![
            Check::new("API server", "version 1.34", Vec::new()),
            Check::new("nodes", "1 node", vec![finding]),
            Check::left_out("clocks", "no Leases"),
        ]);
        assert!(report.contains_error());
        let expected = "\
ok          API server  version 1.34
error       nodes       1 node
not checked clocks      no Leases

error KernelTooOld: Node a : the kernel is 4.4
  remedy: update it
  see docs/reference/check.md#kerneltooold

1 errors, 0 warnings, 1 of 3 checks left out
";
        assert_eq!(report.to_text(&|_, word| word.to_owned()), expected);
    }
}
