//! Trace of an injection for `kumactl inject --explain`: the inputs examined and the resulting decisions, in order.
//!
//! The webhook turns the trace off to avoid its cost.

use std::fmt;

use serde_json::Value;

use crate::denial::Denial;
use crate::inject::Outcome;

/// An injection and its trace.
#[derive(Clone, Debug, PartialEq)]
pub struct InjectionExplanation {
    /// Inputs and decisions, in order. The list ends early if the Pod is denied or skipped.
    pub steps: Vec<TraceStep>,
    /// Rendered containers, the sidecar first. A container is absent if the Pod is skipped, or denied before the
    /// container is complete.
    pub containers: Vec<RenderedContainer>,
    /// Result of [`crate::inject`].
    pub result: Result<Outcome, Denial>,
}

/// One input and the resulting decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceStep {
    /// Topic of the step.
    pub topic: TraceTopic,
    /// Input and decision, as a sentence.
    pub text: String,
}

/// Topic of a trace step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TraceTopic {
    /// Decision to inject or skip the Pod.
    Decision,
    /// Mesh that the Pod joins.
    Mesh,
    /// Placement of the sidecar.
    SidecarMode,
    /// Security contexts of the containers.
    SecurityProfile,
    /// Origin of the sidecar's token.
    Token,
    /// Selected ContainerPatches and the changes of each operation.
    ContainerPatches,
    /// Drain time and grace period.
    Drain,
    /// Delay of the application's stop.
    Stop,
    /// Order of events when the Pod terminates.
    Termination,
    /// The init container.
    Init,
    /// Ports of the sidecar that the application uses as well.
    Ports,
    /// Probes and HTTP lifecycle hooks of the application.
    Probes,
}

/// A rendered container.
#[derive(Clone, Debug, PartialEq)]
pub struct RenderedContainer {
    /// Name before any ContainerPatch, for example `kuma-sidecar`.
    pub name: String,
    /// The container before its ContainerPatches.
    pub before: Value,
    /// The container after its ContainerPatches.
    pub after: Value,
}

/// Recorder of the steps and containers of an injection; `None` if the trace is off.
#[derive(Debug)]
pub(crate) struct Trace(Option<Record>);

#[derive(Debug, Default)]
struct Record {
    steps: Vec<TraceStep>,
    containers: Vec<RenderedContainer>,
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

    pub(crate) fn record_container(&mut self, before: &Value, after: &Value) {
        if let Some(record) = &mut self.0 {
            record.containers.push(RenderedContainer {
                name: before["name"].as_str().unwrap_or_default().to_owned(),
                before: before.clone(),
                after: after.clone(),
            });
        }
    }

    pub(crate) fn into_explanation(self, result: Result<Outcome, Denial>) -> InjectionExplanation {
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
    /// Returns a short name, for headings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Decision => "injection",
            Self::Mesh => "mesh",
            Self::SidecarMode => "sidecar mode",
            Self::SecurityProfile => "security",
            Self::Token => "token",
            Self::ContainerPatches => "container patches",
            Self::Drain => "drain time",
            Self::Stop => "stop of the application",
            Self::Termination => "termination",
            Self::Init => "init container",
            Self::Ports => "ports",
            Self::Probes => "probes",
        }
    }
}

impl fmt::Display for TraceTopic {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}
