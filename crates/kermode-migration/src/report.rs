//! The report, and its text.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;

use serde::Serialize;
use serde_json::Value;

use crate::Settings;
use crate::rule::Rule;

/// Number of objects with equal findings that the text names at most.
const NAMED_OBJECTS: usize = 5;

/// Verdict about a part of an object. Later verdicts need more work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// Works as with Kuma.
    Works,
    /// Works, with a different effect.
    Differs,
    /// Accepted, without effect.
    Ignored,
    /// The kind is not installed, so `kubectl apply` fails.
    NotInstalled,
    /// Denied by a webhook, or the reason that the control plane does not start.
    Refused,
}

/// Report on all objects.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Objects that Kuma or Kermode reads, in the order of the input.
    pub objects: Vec<ObjectReport>,
    /// Number of objects that neither Kuma nor Kermode reads.
    pub unrelated: usize,
    /// Kinds of objects that the user may not read, with the missing permission.
    pub unread: Vec<String>,
}

/// Report on one object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ObjectReport {
    /// Kind, namespace and name.
    pub object: String,
    /// The verdict of the findings that needs the most work.
    pub verdict: Verdict,
    /// Findings, those that need the most work first.
    pub findings: Vec<Finding>,
}

/// Verdict about one part of an object, with its reason.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Finding {
    /// Stable identifier.
    pub id: &'static str,
    /// Verdict of the identifier.
    pub verdict: Verdict,
    /// Behaviour of Kermode.
    pub text: String,
    /// Remedy; absent if nothing is to be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

// === impl Verdict ===

impl Verdict {
    /// All verdicts, those that need the most work first.
    pub const ALL: [Self; 5] = [
        Self::Refused,
        Self::NotInstalled,
        Self::Ignored,
        Self::Differs,
        Self::Works,
    ];

    /// Returns the word in the text of a report.
    pub fn name(self) -> &'static str {
        match self {
            Self::Works => "works",
            Self::Differs => "differs",
            Self::Ignored => "ignored",
            Self::NotInstalled => "not installed",
            Self::Refused => "refused",
        }
    }

    /// Whether the user has to do something, or loses a function.
    pub fn needs_work(self) -> bool {
        self > Self::Differs
    }
}

// === impl Report ===

impl Report {
    /// Whether an object is ignored, not installed or refused, at least in part.
    pub fn needs_work(&self) -> bool {
        self.objects.iter().any(|object| object.verdict.needs_work())
    }

    /// Formats the report for people: numbers by verdict, then a table of the objects with their findings, those that
    /// need the most work first.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let mut counts = BTreeMap::new();
        for object in &self.objects {
            *counts.entry(object.verdict).or_insert(0_usize) += 1;
        }
        let count = |verdict| counts.get(&verdict).copied().unwrap_or_default();
        let counts = Verdict::ALL.map(|verdict| format!("{} {}", count(verdict), verdict.name()));
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{} objects: {}. {} objects that neither Kuma nor Kermode reads.",
            self.objects.len(),
            counts.join(", "),
            self.unrelated
        );
        for verdict in Verdict::ALL {
            let objects = self.objects.iter().filter(|object| object.verdict == verdict);
            for group in groups(objects) {
                write_group(&mut text, &group);
            }
        }
        if !self.unread.is_empty() {
            text.push_str("\nNot read:\n");
            for unread in &self.unread {
                let _ = writeln!(text, "  {}", printable(unread));
            }
        }
        text
    }
}

// === impl ObjectReport ===

impl ObjectReport {
    /// Returns the report on an object with these findings.
    pub(crate) fn new(object: &Value, settings: &Settings, mut findings: Vec<Finding>) -> Self {
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.verdict));
        Self {
            object: name(object, &settings.default_namespace),
            verdict: findings
                .iter()
                .map(|finding| finding.verdict)
                .max()
                .unwrap_or(Verdict::Works),
            findings,
        }
    }

    /// Splits kind and name.
    fn kind_and_name(&self) -> (&str, &str) {
        self.object.split_once(' ').unwrap_or((&self.object, ""))
    }
}

/// Groups objects of one kind with equal findings, in the order of the first object of each group.
fn groups<'o>(objects: impl Iterator<Item = &'o ObjectReport>) -> Vec<Vec<&'o ObjectReport>> {
    let mut groups: Vec<Vec<&ObjectReport>> = Vec::new();
    let mut index_of = HashMap::new();
    for object in objects {
        let key = (object.kind_and_name().0, &object.findings);
        let index = *index_of.entry(key).or_insert(groups.len());
        if index == groups.len() {
            groups.push(Vec::new());
        }
        if let Some(group) = groups.get_mut(index) {
            group.push(object);
        }
    }
    groups
}

/// Writes the findings of objects of one kind that have equal findings.
fn write_group(text: &mut String, objects: &[&ObjectReport]) {
    let Some(first) = objects.first() else { return };
    let names: Vec<&str> = objects
        .iter()
        .take(NAMED_OBJECTS)
        .map(|object| object.kind_and_name().1)
        .collect();
    let more = objects.len().saturating_sub(NAMED_OBJECTS);
    let more = if more == 0 {
        String::new()
    } else {
        format!(" and {more} more")
    };
    let names = format!("{} {}{more}", first.kind_and_name().0, names.join(", "));
    // Writing to a String cannot fail.
    let _ = writeln!(text, "\n{:<14}{}", first.verdict.name(), printable(&names));
    for finding in &first.findings {
        let verdict = if finding.verdict == first.verdict {
            String::new()
        } else {
            format!(" ({})", finding.verdict.name())
        };
        let _ = writeln!(text, "  {}{verdict}: {}", finding.id, printable(&finding.text));
        if let Some(remedy) = &finding.remedy {
            let _ = writeln!(text, "    remedy: {}", printable(remedy));
        }
    }
}

// === impl Finding ===

impl Finding {
    /// Returns a finding without a remedy.
    pub(crate) fn new(rule: &Rule, text: impl Into<String>) -> Self {
        Self {
            id: rule.id,
            verdict: rule.verdict,
            text: text.into(),
            remedy: None,
        }
    }

    /// Returns the finding with a remedy.
    #[must_use]
    pub(crate) fn with_remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

/// Kinds without a namespace, outside of the API group `kuma.io`.
const CLUSTER_SCOPED: [&str; 2] = ["Namespace", "GatewayClass"];

/// Returns kind, namespace and name of an object. In the API group `kuma.io`, an object without a namespace is
/// cluster-scoped.
fn name(object: &Value, default_namespace: &str) -> String {
    let Some(kind) = object["kind"].as_str() else {
        return "Helm values".to_owned();
    };
    let metadata = &object["metadata"];
    let name = metadata["name"].as_str().or(metadata["generateName"].as_str());
    let name = name.unwrap_or("without a name");
    let is_of_kuma = object["apiVersion"]
        .as_str()
        .is_some_and(|version| version.starts_with("kuma.io/"));
    match metadata["namespace"].as_str() {
        Some(namespace) => format!("{kind} {namespace}/{name}"),
        None if is_of_kuma || CLUSTER_SCOPED.contains(&kind) => format!("{kind} {name}"),
        None => format!("{kind} {default_namespace}/{name}"),
    }
}

/// Replaces control characters by spaces, because names and values of objects may contain sequences that a terminal
/// obeys.
fn printable(text: &str) -> String {
    text.replace(char::is_control, " ")
}
