//! Explanation of a Deployment: the decision about its Pod template, its Pods, and why its ReplicaSets create none.

use std::collections::BTreeSet;

use kermode_k8s::offline::PodOutcome;
use serde_json::{Value, json};

use crate::explanation::{Explanation, Finding, Line};
use crate::injection::{Review, outcome_text};
use crate::observed::{ObservedCluster, Reference, condition, name_of, text};
use crate::pod::{PodFacts, assumptions, conversion_findings, convert, decision_findings, section};
use crate::{ExplainError, dataplane, events, installation};

/// JSON pointer to the Pod template.
const TEMPLATE: &str = "/spec/template";
/// Maximum number of Pods that a finding names.
const MAX_NAMED_PODS: usize = 10;

/// Explains a Deployment.
///
/// # Errors
/// If the objects do not contain the Deployment, or an object that the explanation reads cannot be decoded.
pub fn explain_deployment(
    cluster: &ObservedCluster,
    namespace: &str,
    name: &str,
) -> Result<Explanation, ExplainError> {
    let deployment = cluster.find("Deployment", namespace, name);
    let deployment = deployment.ok_or_else(|| ExplainError::not_found("Deployment", namespace, name))?;
    let reference = Reference::to(deployment);
    let review = Review::of(cluster, deployment, TEMPLATE)?;
    let conversion = convert_template(cluster, deployment, &review.after)?;
    let replica_sets: Vec<&Value> = cluster.controlled_by("ReplicaSet", deployment).collect();
    let pods = replica_sets
        .iter()
        .flat_map(|replica_set| cluster.controlled_by("Pod", replica_set));
    let pods: Vec<PodFacts<'_>> = pods
        .map(|pod| PodFacts::of(cluster, pod))
        .collect::<Result<_, _>>()?;

    let mut findings = installation::findings(cluster, &review);
    findings.extend(replica_sets.iter().filter_map(|set| pods_not_created(set)));
    findings.extend(decision_findings(&review, &reference));
    if let Some(warning) = &review.outcome.warning {
        findings.push(Finding::with_remedy_in_text(
            "LabelNotOnTemplate",
            format!("{reference}: {warning}"),
        ));
    }
    if review.is_injected() {
        findings.extend(conversion_findings(&conversion));
    }
    findings.extend(pods_with_problems(&pods));
    let mut injection_lines = vec![Line::new(format!(
        "a new Pod of the Deployment would be {}",
        outcome_text(&review.outcome)
    ))];
    injection_lines.extend(review.decision_lines());
    let inbounds = if review.is_injected() {
        dataplane::facts(&conversion, None)
    } else {
        Vec::new()
    };
    let mut warned = vec![reference.clone()];
    warned.extend(replica_sets.iter().map(|set| Reference::to(set)));
    Ok(Explanation {
        object: reference.to_string(),
        summary: summary(deployment, &review, cluster.is_live.then_some(pods.as_slice())),
        injection: Some(review.state.clone()),
        findings,
        sections: vec![
            section("Injection", injection_lines),
            section("Container patches", review.patch_lines()),
            section("Services, inbounds and tags", inbounds),
            section("Termination", review.termination_lines()),
            section("Pods", pods.iter().map(pod_line).collect()),
            section("Recent warnings", events::warning_lines(cluster, &warned)),
        ],
        assumptions: assumptions(cluster, &review),
    })
}

fn summary(deployment: &Value, review: &Review, pods: Option<&[PodFacts<'_>]>) -> String {
    let decision = outcome_text(&review.outcome);
    let Some(pods) = pods else {
        return format!("its Pods would be {decision}");
    };
    let injected = pods.iter().filter(|pod| pod.is_injected).count();
    let wanted = deployment["spec"]["replicas"].as_u64().unwrap_or(1);
    format!(
        "a new Pod would be {decision}; {injected} of {} Pods have a sidecar, {wanted} are wanted",
        pods.len()
    )
}

/// Converts the Pod that the Deployment would create, after its injection. The Pod has the name of the Deployment.
fn convert_template(
    cluster: &ObservedCluster,
    deployment: &Value,
    template: &Value,
) -> Result<PodOutcome, ExplainError> {
    let mut pod = template.clone();
    pod["apiVersion"] = "v1".into();
    pod["kind"] = "Pod".into();
    if !pod["metadata"].is_object() {
        pod["metadata"] = json!({});
    }
    pod["metadata"]["namespace"] = deployment["metadata"]["namespace"].clone();
    pod["metadata"]["name"] = deployment["metadata"]["name"].clone();
    pod["metadata"]["ownerReferences"] = json!([{
        "apiVersion": "apps/v1", "kind": "Deployment", "controller": true,
        "name": deployment["metadata"]["name"], "uid": text(deployment, "/metadata/uid"),
    }]);
    convert(cluster, &pod)
}

/// Returns the finding about a ReplicaSet that cannot create its Pods.
pub(crate) fn pods_not_created(replica_set: &Value) -> Option<Finding> {
    let failure =
        condition(replica_set, "ReplicaFailure").filter(|condition| condition["status"] == "True")?;
    let message = text(failure, "/message").trim();
    let remedy = if message.contains("denied the request") {
        "correct what the message names; the ReplicaSet tries again by itself, at intervals of up to a quarter of an hour"
    } else if message.contains("failed calling webhook") {
        "the control plane does not answer: check that its replicas are ready; the ReplicaSet tries again by itself"
    } else {
        "correct what the message names, for example a quota; the ReplicaSet tries again by itself"
    };
    Some(Finding::new(
        "PodsNotCreated",
        format!("{} creates no Pods: {message}", Reference::to(replica_set)),
        remedy,
    ))
}

/// Returns the finding that summarizes the findings about several Pods.
pub(crate) fn pods_with_problems(pods: &[PodFacts<'_>]) -> Option<Finding> {
    let described = |pod: &PodFacts<'_>| {
        let findings = pod.findings();
        let mut seen = BTreeSet::new();
        let ids = findings.iter().map(|finding| finding.id);
        let ids: Vec<&str> = ids.filter(|id| seen.insert(*id)).collect();
        (!ids.is_empty()).then(|| format!("{} ({})", name_of(pod.pod), ids.join(", ")))
    };
    let described = pods.iter().map(|pod| (pod, described(pod)));
    let affected: Vec<_> = described.filter_map(|(pod, text)| Some((pod, text?))).collect();
    let (first, _) = affected.first()?;
    let (namespace, name) = (text(first.pod, "/metadata/namespace"), name_of(first.pod));
    let affected: Vec<_> = affected.into_iter().map(|(_, text)| text).collect();
    Some(Finding::new(
        "PodsWithProblems",
        format!(
            "{} of {} Pods have problems: {}",
            affected.len(),
            pods.len(),
            first_of(&affected)
        ),
        format!("kumactl explain pod {namespace}/{name}, and the other Pods likewise"),
    ))
}

/// Joins the first texts, and says how many there are besides.
fn first_of(texts: &[String]) -> String {
    let (shown, others) = texts.split_at(texts.len().min(MAX_NAMED_PODS));
    let shown = shown.join(", ");
    if others.is_empty() {
        shown
    } else {
        format!("{shown} and {} more", others.len())
    }
}

/// Describes a Pod, with its findings.
pub(crate) fn pod_line(pod: &PodFacts<'_>) -> Line {
    let findings = pod.findings();
    let details = findings
        .iter()
        .map(|finding| Line::new(format!("{}: {}", finding.id, finding.problem)));
    Line::new(format!("{} {}", name_of(pod.pod), pod.summary())).with(details)
}
