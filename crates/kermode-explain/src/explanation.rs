//! The explanation of one object, and its text.

use std::fmt::Write;

use serde::Serialize;

/// Explanation of a Pod, a Deployment or a Namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// Kind, namespace and name, for example `Pod shop/web-0`.
    pub object: String,
    /// The most important facts in one line.
    pub summary: String,
    /// Whether the object has a sidecar, and would get one today. Absent for a Namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub injection: Option<InjectionState>,
    /// Problems of the object, the most important one first.
    pub findings: Vec<Finding>,
    /// Facts by topic.
    pub sections: Vec<Section>,
    /// Assumptions in place of objects that are missing or may not be read.
    pub assumptions: Vec<String>,
}

/// Whether a Pod has a sidecar, and the decision of the injector about the Pod today.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InjectionState {
    /// Whether the Pod has a sidecar. Absent for a Pod template.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub injected: Option<bool>,
    /// Decision about a new Pod with the same metadata and spec.
    pub decision: Decision,
    /// Reason of the decision, from `docs/reference/admission-messages.md#reasons`.
    pub reason: String,
    /// Mesh that the Pod would join. Absent if the Pod would not be injected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mesh: Option<String>,
}

/// Decision of the injector about a new Pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Decision {
    /// The Pod gets a sidecar.
    Injected,
    /// The Pod is admitted without a sidecar.
    Skipped,
    /// The Pod is denied.
    Denied,
    /// No webhook is called for the Pod, so it is admitted without a sidecar.
    NotReviewed,
}

/// Something that is wrong, with a remedy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// Stable identifier.
    pub id: &'static str,
    /// The problem. The text names the object.
    pub problem: String,
    /// Remedy. Absent if the text of the problem contains the remedy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// Facts about one topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Section {
    /// Title.
    pub title: &'static str,
    /// Facts, in order.
    pub lines: Vec<Line>,
}

/// One fact, with its details.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Line {
    /// The fact.
    pub text: String,
    /// Details.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<Line>,
}

// === impl Explanation ===

impl Explanation {
    /// Formats the explanation for people: the summary, the findings, then the sections.
    pub fn to_text(&self) -> String {
        let mut text = format!("{}: {}\n", self.object, self.summary);
        if !self.findings.is_empty() {
            let lines: Vec<Line> = self.findings.iter().map(Finding::line).collect();
            write_section(&mut text, "Problems", &lines);
        }
        for section in self.sections.iter().filter(|section| !section.lines.is_empty()) {
            write_section(&mut text, section.title, &section.lines);
        }
        if !self.assumptions.is_empty() {
            let lines: Vec<Line> = self.assumptions.iter().map(Line::new).collect();
            write_section(&mut text, "Assumptions", &lines);
        }
        text
    }
}

// === impl Finding ===

impl Finding {
    /// Returns a finding whose remedy is separate from the problem.
    pub(crate) fn new(id: &'static str, problem: String, remedy: impl Into<String>) -> Self {
        Self {
            id,
            problem,
            remedy: Some(remedy.into()),
        }
    }

    /// Returns a finding whose text contains the remedy.
    pub(crate) fn with_remedy_in_text(id: &'static str, problem: String) -> Self {
        Self {
            id,
            problem,
            remedy: None,
        }
    }

    fn line(&self) -> Line {
        let remedy = self
            .remedy
            .iter()
            .map(|remedy| Line::new(format!("remedy: {remedy}")));
        Line {
            text: format!("{}: {}", self.id, self.problem),
            details: remedy.collect(),
        }
    }
}

// === impl Line ===

impl Line {
    /// Returns a fact without details.
    pub fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            details: Vec::new(),
        }
    }

    /// Returns the fact with these details.
    #[must_use]
    pub fn with(mut self, details: impl IntoIterator<Item = Self>) -> Self {
        self.details.extend(details);
        self
    }
}

/// Formats lines, each indented by two spaces for each level, starting at `level`. Control characters are
/// replaced by spaces, because messages of other programs may contain line breaks, and sequences that a terminal obeys.
pub fn lines_text(lines: &[Line], level: usize) -> String {
    let mut text = String::new();
    for line in lines {
        let content = line.text.replace(char::is_control, " ");
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{:width$}{content}", "", width = level * 2);
        text.push_str(&lines_text(&line.details, level + 1));
    }
    text
}

fn write_section(text: &mut String, title: &str, lines: &[Line]) {
    let _ = writeln!(text, "\n{title}");
    text.push_str(&lines_text(lines, 1));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_contains_no_control_characters_of_other_programs() {
        let line = Line::new("message\u{1b}[2J\r\nfrom a Pod");
        assert_eq!(lines_text(&[line], 1), "  message [2J  from a Pod\n");
    }
}
