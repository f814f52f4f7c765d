//! Whether a Pod is injected (BEHAVIOUR section 2.3, DESIGN decision 6).

use std::collections::BTreeMap;

use kermode_crds::annotation::{SIDECAR_INJECTED, SIDECAR_INJECTION};
use serde_json::Value;

use crate::names::SIDECAR;
use crate::pod::{Container, Pod};
use crate::reason::{SkipReason, Source};
use crate::refusal::Refusal;
use crate::values::Values;

/// What is to be done with a Pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    Inject(Source),
    Skip(SkipReason),
}

/// The labels and annotations that may decide.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Voices<'a> {
    pub(crate) pod_labels: Values<'a>,
    pub(crate) pod_annotations: Values<'a>,
    pub(crate) namespace_labels: Values<'a>,
    pub(crate) namespace_annotations: Values<'a>,
}

pub(crate) fn decide(
    pod: &Pod<'_>,
    voices: &Voices<'_>,
    exceptions: &BTreeMap<String, String>,
) -> Result<Decision, Refusal> {
    if is_exception(&pod.labels, exceptions) {
        return Ok(Decision::Skip(SkipReason::ExceptionLabel));
    }
    if has_sidecar(pod) {
        return Ok(Decision::Skip(SkipReason::AlreadyInjected));
    }
    for source in Source::IN_ORDER {
        match voices.of(source).boolean(SIDECAR_INJECTION)? {
            Some(true) => return Ok(Decision::Inject(source)),
            Some(false) => return Ok(Decision::Skip(SkipReason::Disabled(source))),
            None => {}
        }
    }
    Ok(Decision::Skip(SkipReason::NotRequested))
}

fn is_exception(labels: &BTreeMap<String, String>, exceptions: &BTreeMap<String, String>) -> bool {
    exceptions.iter().any(|(key, value)| {
        labels
            .get(key)
            .is_some_and(|found| value == "*" || value == found)
    })
}

/// A ContainerPatch may have renamed the sidecar: then its environment gives it away.
fn has_sidecar(pod: &Pod<'_>) -> bool {
    let marked = pod
        .annotations
        .get(SIDECAR_INJECTED)
        .is_some_and(|value| value == "true");
    pod.containers
        .iter()
        .chain(&pod.init_containers)
        .any(|container| container.name == SIDECAR || (marked && looks_like_sidecar(container)))
}

fn looks_like_sidecar(container: &Container<'_>) -> bool {
    let sets = |name: &str| {
        let mut variables = container.list("env").iter();
        variables.any(|variable| variable.get("name").and_then(Value::as_str) == Some(name))
    };
    sets("KUMA_CONTROL_PLANE_URL") && sets("KUMA_DATAPLANE_MESH")
}

// === impl Voices ===

impl<'a> Voices<'a> {
    pub(crate) fn of(&self, source: Source) -> Values<'a> {
        match source {
            Source::PodLabel => self.pod_labels,
            Source::PodAnnotation => self.pod_annotations,
            Source::NamespaceLabel => self.namespace_labels,
            Source::NamespaceAnnotation => self.namespace_annotations,
        }
    }
}
