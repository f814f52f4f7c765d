//! Explanation of a Namespace: whether it requests injection, and which of its Pods have a sidecar.

use kermode_crds::annotation::{MESH, SIDECAR_INJECTION};
use serde_json::{Value, json};

use crate::explanation::{Decision, Explanation, Line, Section};
use crate::injection::{Review, outcome_text};
use crate::observed::{ObservedCluster, Reference, name_of};
use crate::pod::{PodFacts, assumptions, decision_findings, section};
use crate::{ExplainError, deployment, events, installation};

/// Explains a Namespace.
///
/// # Errors
/// If the objects do not contain the Namespace, or an object that the explanation reads cannot be decoded.
pub fn explain_namespace(cluster: &ObservedCluster, name: &str) -> Result<Explanation, ExplainError> {
    let namespace = cluster.find("Namespace", "", name);
    let namespace = namespace.ok_or_else(|| ExplainError::not_found("Namespace", "", name))?;
    let reference = Reference::to(namespace);
    let review = Review::of(cluster, &plain_pod(name), "")?;
    let pods = cluster.in_namespace("Pod", name);
    let pods: Vec<PodFacts<'_>> = pods
        .map(|pod| PodFacts::of(cluster, pod))
        .collect::<Result<_, _>>()?;
    let mut findings = installation::findings(cluster, &review);
    findings.extend(decision_findings(&review, &reference));
    findings.extend(
        cluster
            .in_namespace("ReplicaSet", name)
            .filter_map(deployment::pods_not_created),
    );
    findings.extend(deployment::pods_with_problems(&pods));
    let mut injection_lines = request_lines(namespace);
    injection_lines.push(Line::new(format!(
        "a Pod without labels and annotations would be {}",
        outcome_text(&review.outcome)
    )));
    injection_lines.extend(review.decision_lines());
    let mut sections = vec![section("Injection", injection_lines)];
    sections.extend(pod_sections(&pods));
    let warned = Reference {
        namespace: "",
        ..reference.clone()
    };
    sections.push(section(
        "Recent warnings",
        events::warning_lines(cluster, &[warned]),
    ));
    let injected = pods.iter().filter(|pod| pod.is_injected).count();
    Ok(Explanation {
        object: reference.to_string(),
        summary: format!(
            "a Pod would be {}; {injected} of {} Pods have a sidecar",
            outcome_text(&review.outcome),
            pods.len()
        ),
        injection: Some(review.state.clone()),
        findings,
        sections,
        assumptions: assumptions(cluster, &review),
    })
}

/// Returns a Pod whose Namespace alone decides on injection.
fn plain_pod(namespace: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": namespace, "name": "any"},
        "spec": {"containers": [{"name": "app", "image": "app"}], "terminationGracePeriodSeconds": 30},
    })
}

/// Describes the labels and annotations of the Namespace that injection reads.
fn request_lines(namespace: &Value) -> Vec<Line> {
    let value = |field: &str, key: &str| namespace["metadata"][field][key].as_str().map(str::to_owned);
    let mut lines = Vec::new();
    for (key, absent) in [
        (
            SIDECAR_INJECTION,
            "so only Pods that request injection themselves are injected",
        ),
        (
            MESH,
            "so its Pods join the Mesh default unless they name another one",
        ),
    ] {
        let found = ["labels", "annotations"]
            .iter()
            .find_map(|field| Some((field.trim_end_matches('s'), value(field, key)?)));
        lines.push(Line::new(match found {
            Some((noun, value)) => format!("{noun} {key} is {value}"),
            None => format!("the Namespace has neither label nor annotation {key}, {absent}"),
        }));
    }
    lines
}

/// Lists the Pods by their injection: with a sidecar, without one that they would get today, and exempt.
fn pod_sections(pods: &[PodFacts<'_>]) -> Vec<Section> {
    let with_sidecar = |pod: &&PodFacts<'_>| pod.is_injected;
    let would_get_one =
        |pod: &&PodFacts<'_>| !pod.is_injected && pod.review.state.decision == Decision::Injected;
    let would_be_denied =
        |pod: &&PodFacts<'_>| !pod.is_injected && pod.review.state.decision == Decision::Denied;
    let is_exempt = |pod: &&PodFacts<'_>| {
        !pod.is_injected
            && matches!(
                pod.review.state.decision,
                Decision::Skipped | Decision::NotReviewed
            )
    };
    let exempt = pods.iter().filter(is_exempt).map(|pod| {
        let reason = pod
            .review
            .outcome
            .explanation
            .steps
            .iter()
            .rfind(|step| step.text.contains("skipped"));
        let reason = match (pod.review.state.decision, reason) {
            (Decision::NotReviewed, _) => "the API server calls no webhook for it".to_owned(),
            (_, Some(step)) => step.text.clone(),
            (_, None) => pod.review.state.reason.clone(),
        };
        Line::new(format!("{}: {reason}", name_of(pod.pod)))
    });
    vec![
        section(
            "Pods with a sidecar",
            pods.iter()
                .filter(with_sidecar)
                .map(deployment::pod_line)
                .collect(),
        ),
        section(
            "Pods without a sidecar that would get one today",
            pods.iter()
                .filter(would_get_one)
                .map(deployment::pod_line)
                .collect(),
        ),
        section(
            "Pods without a sidecar that would be denied today",
            pods.iter()
                .filter(would_be_denied)
                .map(deployment::pod_line)
                .collect(),
        ),
        section("Exempt Pods", exempt.collect()),
    ]
}
