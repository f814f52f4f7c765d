//! Explanation of an injection decision: its steps, and the difference between a Pod and what would be injected today.

use kermode_inject::{Outcome, SkipReason, TraceTopic, container_differences, differences};
use kermode_manifests::{ClusterObjects, Injector, ManifestError, WorkloadOutcome};
use serde_json::Value;

use crate::containers::INJECTED_CONTAINERS;
use crate::explanation::{Decision, InjectionState, Line, lines_text};
use crate::observed::{ObservedCluster, list, text};
use crate::webhook::{Webhooks, labels_at};

/// Environment variable of the sidecar with the roots of the control plane.
const ROOTS_VARIABLE: &str = "KUMA_CONTROL_PLANE_CA_CERT";
/// Number of differences between a sidecar and what would be injected today that are listed.
const MAX_DIFFERENCES: usize = 20;

/// Formats the decisions about several workloads, in their order.
pub fn injections_text(outcomes: &[WorkloadOutcome]) -> String {
    if outcomes.is_empty() {
        return "No object is a Pod or has a Pod template.\n".to_owned();
    }
    let texts: Vec<String> = outcomes
        .iter()
        .map(|workload| {
            let line = Line::new(format!("{}: {}", workload.name, outcome_text(workload)));
            lines_text(&[line.with(all_lines(workload))], 0)
        })
        .collect();
    texts.join("\n")
}

/// Formats the outcome. The parentheses contain the source of the injection, such as a label of the Namespace, or the
/// reason for skipping or denying the Pod.
pub(crate) fn outcome_text(workload: &WorkloadOutcome) -> String {
    match &workload.explanation.result {
        Ok(Outcome::Injected(injection)) => {
            format!("injected ({}), mesh {}", injection.source, injection.mesh)
        }
        Ok(Outcome::Skipped(reason)) => format!("skipped ({reason})"),
        Err(denial) => format!("denied ({})", denial.reason()),
    }
}

/// Returns the assumptions, all steps, the warnings and the denial.
fn all_lines(workload: &WorkloadOutcome) -> Vec<Line> {
    let line = |topic: &str, text: &str| Line::new(format!("{topic}: {text}"));
    let assumed = workload.assumptions.iter().map(|text| line("assumed", text));
    let steps = workload.explanation.steps.iter();
    let steps = steps.map(|step| line(step.topic.as_str(), &step.text));
    let warnings = workload.warnings().map(|warning| line("warning", &warning));
    let denial = workload.explanation.result.as_ref().err();
    let denial = denial.map(|denial| line("denied", &denial.to_string()));
    assumed.chain(steps).chain(warnings).chain(denial).collect()
}

/// Decision of the injector about a Pod or a Pod template, as it would be today.
pub(crate) struct Review {
    /// The decision with its steps.
    pub(crate) outcome: WorkloadOutcome,
    /// The webhooks that the API server calls; `None` if their registration is unknown.
    pub(crate) webhooks: Option<Webhooks>,
    /// The Pod or Pod template after injection.
    pub(crate) after: Value,
    /// Differences between the Pod and [`Self::after`].
    differences: Vec<String>,
    /// State for scripts; `injected` is not set.
    pub(crate) state: InjectionState,
}

// === impl Review ===

impl Review {
    /// Decides on a Pod, or on an object with a Pod template at the JSON pointer `template`.
    ///
    /// # Errors
    /// If an object that the decision reads cannot be decoded.
    pub(crate) fn of(
        cluster: &ObservedCluster,
        object: &Value,
        template: &str,
    ) -> Result<Self, ManifestError> {
        let objects = ClusterObjects::new(&cluster.objects, cluster.config.system_namespace())?;
        Self::with_objects(cluster, &objects, object, template)
    }

    /// Decides as [`Self::of`]; `objects` are those of the cluster, decoded.
    ///
    /// # Errors
    /// If the object cannot be decoded.
    pub(crate) fn with_objects(
        cluster: &ObservedCluster,
        objects: &ClusterObjects,
        object: &Value,
        template: &str,
    ) -> Result<Self, ManifestError> {
        let namespace = text(object, "/metadata/namespace");
        let roots = cluster
            .control_plane_roots
            .clone()
            .unwrap_or_else(|| roots_of(object));
        let injector = Injector {
            config: &cluster.config,
            cluster: objects,
            ca_pem: &roots,
            namespace,
        };
        let mut injected = object.clone();
        let outcome = injector.inject_pod_at(&mut injected, template)?;
        let pod_at = |object: &Value| object.pointer(template).cloned().unwrap_or_default();
        let (before, after) = (pod_at(object), pod_at(&injected));
        let metadata = objects.namespace(namespace).cloned().unwrap_or_default();
        let labels = labels_at(&before, "/metadata/labels");
        let webhooks = Webhooks::evaluate(cluster, namespace, &metadata.labels, &labels);
        let state = state(&outcome, webhooks.as_ref(), &before);
        Ok(Self {
            differences: pod_differences(&before, &after),
            outcome,
            webhooks,
            after,
            state,
        })
    }

    /// Whether a label or annotation requests a sidecar that the Pod would get.
    pub(crate) fn is_injected(&self) -> bool {
        self.state.decision == Decision::Injected
    }

    /// Whether the containers of an injected Pod are those that would be injected today.
    pub(crate) fn is_up_to_date(&self) -> bool {
        self.differences.is_empty()
    }

    /// Returns the differences that make an injected Pod outdated.
    pub(crate) fn into_differences(self) -> Vec<String> {
        self.differences
    }

    /// Describes the decision: the webhooks, the steps that led to it, and warnings.
    pub(crate) fn decision_lines(&self) -> Vec<Line> {
        let mut lines: Vec<Line> = self.webhooks.iter().flat_map(Webhooks::lines).collect();
        lines.extend(self.steps(&[TraceTopic::Decision], false));
        lines.extend(self.steps(
            &[
                TraceTopic::Mesh,
                TraceTopic::SidecarMode,
                TraceTopic::SecurityProfile,
                TraceTopic::Token,
                TraceTopic::Init,
                TraceTopic::Ports,
                TraceTopic::Probes,
            ],
            true,
        ));
        // The warning about the metadata of a workload is a finding.
        let of_workload = self.outcome.warning.iter().count();
        let warnings = self.outcome.warnings().skip(of_workload);
        lines.extend(warnings.map(|warning| Line::new(format!("warning: {warning}"))));
        lines
    }

    /// Describes the selected ContainerPatches, and what each operation changed.
    pub(crate) fn patch_lines(&self) -> Vec<Line> {
        self.steps(&[TraceTopic::ContainerPatches], false)
    }

    /// Describes the order of events when the Pod terminates.
    pub(crate) fn termination_lines(&self) -> Vec<Line> {
        let mut lines = self.steps(&[TraceTopic::Drain, TraceTopic::Stop], true);
        lines.extend(self.steps(&[TraceTopic::Termination], false));
        lines
    }

    /// Lists the differences between an injected Pod and what would be injected today.
    pub(crate) fn difference_lines(&self) -> Vec<Line> {
        let more = self.differences.len().saturating_sub(MAX_DIFFERENCES);
        let shown = self.differences.iter().take(MAX_DIFFERENCES).map(Line::new);
        let rest = (more > 0).then(|| Line::new(format!("and {more} more")));
        shown.chain(rest).collect()
    }

    /// Returns the steps of some topics, with or without the name of the topic.
    fn steps(&self, topics: &[TraceTopic], with_topic: bool) -> Vec<Line> {
        let steps = self.outcome.explanation.steps.iter();
        steps
            .filter(|step| topics.contains(&step.topic))
            .map(|step| {
                if with_topic {
                    Line::new(format!("{}: {}", step.topic, step.text))
                } else {
                    Line::new(&step.text)
                }
            })
            .collect()
    }
}

fn state(outcome: &WorkloadOutcome, webhooks: Option<&Webhooks>, pod: &Value) -> InjectionState {
    let annotation = |key: &str| {
        let value = pod["metadata"]["annotations"][key].as_str();
        value.filter(|value| !value.is_empty()).map(str::to_owned)
    };
    let (decision, reason, mesh) = match &outcome.explanation.result {
        Ok(Outcome::Injected(injection)) => (
            Decision::Injected,
            injection.source.as_str().to_owned(),
            Some(injection.mesh.clone()),
        ),
        Ok(Outcome::Skipped(SkipReason::AlreadyInjected)) => (
            Decision::Injected,
            annotation(kermode_crds::annotation::INJECTION_REASON)
                .unwrap_or_else(|| SkipReason::AlreadyInjected.to_string()),
            annotation(kermode_crds::annotation::MESH),
        ),
        Ok(Outcome::Skipped(reason)) => (Decision::Skipped, reason.to_string(), None),
        Err(denial) => (Decision::Denied, denial.reason().to_owned(), None),
    };
    let is_reviewed = webhooks.is_none_or(Webhooks::any_called);
    if is_reviewed || decision == Decision::Skipped {
        InjectionState {
            injected: None,
            decision,
            reason,
            mesh,
        }
    } else {
        InjectionState {
            injected: None,
            decision: Decision::NotReviewed,
            reason: "NoWebhook".to_owned(),
            mesh: None,
        }
    }
}

/// Returns the differences between a Pod and the Pod after its injection. A container of the sidecar is compared with the
/// container of the same name, without differences that keep it up to date.
fn pod_differences(before: &Value, after: &Value) -> Vec<String> {
    let (mut before, mut after) = (before.clone(), after.clone());
    let mut lines = Vec::new();
    for path in ["/spec/initContainers", "/spec/containers"] {
        let (Some(Value::Array(before)), Some(Value::Array(after))) =
            (before.pointer_mut(path), after.pointer_mut(path))
        else {
            continue;
        };
        for (index, rendered) in after
            .iter_mut()
            .enumerate()
            .filter(|(_, container)| is_injected(container))
        {
            let found = before.iter_mut().find(|found| found["name"] == rendered["name"]);
            if let Some(found) = found {
                lines.extend(container_differences(&format!("{path}/{index}"), found, rendered));
                // The remaining comparison leaves out both containers.
                *rendered = rendered["name"].clone();
                *found = rendered.clone();
            }
        }
    }
    lines.extend(differences(&before, &after));
    lines
}

/// Whether a container is one that injection adds.
fn is_injected(container: &Value) -> bool {
    INJECTED_CONTAINERS.contains(&text(container, "/name"))
}

/// Returns the roots of the control plane in the environment of a Pod's sidecar; empty if there are none.
fn roots_of(pod: &Value) -> String {
    let containers = list(pod, "/spec/initContainers")
        .iter()
        .chain(list(pod, "/spec/containers"));
    let mut variables = containers.flat_map(|container| list(container, "/env"));
    let variable = variables.find(|variable| variable["name"] == ROOTS_VARIABLE);
    variable
        .map(|variable| text(variable, "/value").to_owned())
        .unwrap_or_default()
}
