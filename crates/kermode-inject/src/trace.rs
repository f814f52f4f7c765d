//! The record of a decision, for people: what was looked at, in order, and what followed from it.
//!
//! Kept by the code that decides, so it cannot say anything else than what happens. The webhook keeps none and pays
//! nothing for it.

use std::fmt;

use serde_json::Value;

use crate::denial::Denial;
use crate::inject::Outcome;

/// A decision with its record.
#[derive(Clone, Debug, PartialEq)]
pub struct InjectionExplanation {
    /// What was looked at and decided, in order. Ends early when the Pod is refused or left alone.
    pub steps: Vec<TraceStep>,
    /// The rendered containers before and after their ContainerPatches, the sidecar first. Without those that were
    /// not reached.
    pub containers: Vec<Rendered>,
    /// What [`crate::inject`] answers.
    pub result: Result<Outcome, Denial>,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceStep {
    /// What it belongs to.
    pub topic: TraceTopic,
    /// What was found and what follows, in words.
    pub text: String,
}

/// What a step belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TraceTopic {
    /// Whether to inject at all.
    Decision,
    /// The mesh that the Pod joins.
    Mesh,
    /// Where the sidecar is put.
    SidecarMode,
    /// How tightly the containers are confined.
    SecurityProfile,
    /// Where the sidecar's token comes from.
    Token,
    /// Which ContainerPatches apply, and what each operation changes.
    ContainerPatches,
    /// Drain time and grace period.
    Drain,
    /// The init container.
    Init,
    /// Probes of the application.
    Probes,
}

/// A rendered container.
#[derive(Clone, Debug, PartialEq)]
pub struct Rendered {
    /// Its name before any ContainerPatch, for example `kuma-sidecar`.
    pub name: String,
    /// As injection renders it.
    pub before: Value,
    /// After its ContainerPatches.
    pub after: Value,
}

/// Writes the record, or nothing at all.
#[derive(Debug)]
pub(crate) struct Trace(Option<Record>);

#[derive(Debug, Default)]
struct Record {
    steps: Vec<TraceStep>,
    containers: Vec<Rendered>,
}

// === impl Trace ===

impl Trace {
    pub(crate) fn off() -> Self {
        Self(None)
    }

    pub(crate) fn on() -> Self {
        Self(Some(Record::default()))
    }

    pub(crate) fn is_on(&self) -> bool {
        self.0.is_some()
    }

    pub(crate) fn note(&mut self, topic: TraceTopic, text: impl FnOnce() -> String) {
        if let Some(record) = &mut self.0 {
            record.steps.push(TraceStep { topic, text: text() });
        }
    }

    pub(crate) fn rendered(&mut self, before: &Value, after: &Value) {
        if let Some(record) = &mut self.0 {
            record.containers.push(Rendered {
                name: before["name"].as_str().unwrap_or_default().to_owned(),
                before: before.clone(),
                after: after.clone(),
            });
        }
    }

    pub(crate) fn explain(self, result: Result<Outcome, Denial>) -> InjectionExplanation {
        let record = self.0.unwrap_or_default();
        InjectionExplanation {
            steps: record.steps,
            containers: record.containers,
            result,
        }
    }
}

// === impl TraceTopic ===

impl TraceTopic {
    /// A short name, for headings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Decision => "injection",
            Self::Mesh => "mesh",
            Self::SidecarMode => "sidecar mode",
            Self::SecurityProfile => "security",
            Self::Token => "token",
            Self::ContainerPatches => "container patches",
            Self::Drain => "drain time",
            Self::Init => "init container",
            Self::Probes => "probes",
        }
    }
}

impl fmt::Display for TraceTopic {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}
