//! Explanation of a Pod.

use kermode_crds::annotation::SIDECAR_INJECTION;
use kermode_k8s::convert::{ConvertSettings, ConvertWarning, ServiceMatch};
use kermode_k8s::offline::{self, NoDataplane, PodOutcome};
use serde_json::Value;

use crate::explanation::{Decision, Explanation, Finding, Line, Section};
use crate::injection::{Review, outcome_text};
use crate::observed::{ObservedCluster, Reference, controller, text};
use crate::{ExplainError, containers, dataplane, events, installation, late_injection, sidecar};

/// Kinds that the conversion of a Pod reads, besides the Pod.
const CONVERTED_KINDS: [&str; 4] = ["Service", "Namespace", "ReplicaSet", "Job"];

/// Facts of one Pod, from which its explanation is composed.
pub(crate) struct PodFacts<'a> {
    cluster: &'a ObservedCluster,
    pub(crate) pod: &'a Value,
    pub(crate) review: Review,
    conversion: PodOutcome,
    pub(crate) is_injected: bool,
}

/// Explains a Pod.
///
/// # Errors
/// If the objects do not contain the Pod, or an object that the explanation reads cannot be decoded.
pub fn explain_pod(
    cluster: &ObservedCluster,
    namespace: &str,
    name: &str,
) -> Result<Explanation, ExplainError> {
    let pod = cluster.find("Pod", namespace, name);
    let pod = pod.ok_or_else(|| ExplainError::not_found("Pod", namespace, name))?;
    Ok(PodFacts::of(cluster, pod)?.explanation())
}

/// Converts a Pod to its Dataplane.
///
/// # Errors
/// If the Pod or an object that the conversion reads cannot be decoded.
pub(crate) fn convert(cluster: &ObservedCluster, pod: &Value) -> Result<PodOutcome, ExplainError> {
    let namespace = text(pod, "/metadata/namespace");
    let read = cluster.objects.iter().filter(|object| {
        let kind = text(object, "/kind");
        CONVERTED_KINDS.contains(&kind)
            && (kind == "Namespace" || text(object, "/metadata/namespace") == namespace)
    });
    let objects: Vec<Value> = [pod].into_iter().chain(read).cloned().collect();
    let zone = cluster.config.multizone.zone.name.as_str();
    let settings = ConvertSettings {
        zone: (!zone.is_empty()).then(|| zone.into()),
    };
    let outcomes = offline::convert_pods(&objects, namespace, &settings)?;
    let outcome = outcomes.into_iter().next();
    outcome.ok_or_else(|| ExplainError::not_found("Pod", namespace, text(pod, "/metadata/name")))
}

/// Returns the findings about Services and annotations of a converted Pod.
pub(crate) fn conversion_findings(conversion: &PodOutcome) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Err(NoDataplane::Invalid(_)) = &conversion.dataplane {
        findings.push(Finding::new(
            "DataplaneInvalid",
            format!("Pod {}: {}", conversion.pod, dataplane::summary(conversion)),
            "correct the field; the Pod keeps its last valid Dataplane, if it had one",
        ));
    }
    let warnings = &conversion.warnings;
    let unusual = warnings
        .iter()
        .filter(|warning| !warning.is_usual() && !is_part_of_another(warning, warnings));
    findings
        .extend(unusual.map(|warning| Finding::with_remedy_in_text(warning.reason(), warning.to_string())));
    findings
}

/// Whether a warning is about one port of a Service about which another warning says that none of its ports yields an
/// inbound.
fn is_part_of_another(warning: &ConvertWarning, warnings: &[ConvertWarning]) -> bool {
    let (ConvertWarning::TargetPortNotFound { service, .. } | ConvertWarning::SidecarPort { service, .. }) =
        warning
    else {
        return false;
    };
    warnings.iter().any(|other| {
        matches!(other, ConvertWarning::ServiceWithoutInbound { service: without_inbound, .. }
            if without_inbound == service)
    })
}

// === impl PodFacts ===

impl<'a> PodFacts<'a> {
    pub(crate) fn of(cluster: &'a ObservedCluster, pod: &'a Value) -> Result<Self, ExplainError> {
        let conversion = convert(cluster, pod)?;
        Ok(Self {
            cluster,
            pod,
            review: Review::of(cluster, pod, "")?,
            is_injected: !matches!(conversion.dataplane, Err(NoDataplane::NotInjected)),
            conversion,
        })
    }

    pub(crate) fn explanation(&self) -> Explanation {
        let mut injection = self.review.state.clone();
        injection.injected = Some(self.is_injected);
        let unready_reason = containers::unready_reason(self.pod);
        let (patches, termination) = if self.is_injected {
            ("Container patches", "Termination")
        } else {
            (
                "Container patches of a sidecar that would be injected today",
                "Termination with this sidecar",
            )
        };
        let mut sections = vec![
            section("Injection", self.injection_lines()),
            section(patches, self.review.patch_lines()),
        ];
        if self.is_injected {
            sections.extend([
                section(
                    "Services, inbounds and tags",
                    dataplane::facts(&self.conversion, unready_reason.as_deref()),
                ),
                section("Sidecar", self.sidecar_lines()),
            ]);
        }
        sections.extend([
            section(termination, self.review.termination_lines()),
            section("Containers", containers::lines(self.pod)),
            section("Recent warnings", self.warning_lines()),
        ]);
        let mut findings = installation::findings(self.cluster, &self.review);
        findings.extend(self.findings());
        Explanation {
            object: Reference::to(self.pod).to_string(),
            summary: self.summary(),
            injection: Some(injection),
            findings,
            sections,
            assumptions: assumptions(self.cluster, &self.review),
        }
    }

    /// Returns everything that is wrong with the Pod: the containers first, since their failures often explain the rest.
    pub(crate) fn findings(&self) -> Vec<Finding> {
        let mut findings = containers::findings(self.pod);
        // A Pod that ends or has finished is not replaced because of its sidecar.
        if !containers::is_ending(self.pod) {
            findings.extend(self.injection_findings());
        }
        if self.is_injected {
            findings.extend(conversion_findings(&self.conversion));
            findings.extend(self.dataplane_findings());
        }
        findings
    }

    /// Returns whether the Pod has a sidecar, its mesh, and its state.
    pub(crate) fn summary(&self) -> String {
        let state = containers::short_state(self.pod);
        if !self.is_injected {
            return format!("has no sidecar, {state}");
        }
        let mesh = text(self.pod, "/metadata/annotations/kuma.io~1mesh");
        let mesh = if mesh.is_empty() { "default" } else { mesh };
        format!("has a sidecar, mesh {mesh}, {state}")
    }

    fn injection_lines(&self) -> Vec<Line> {
        let reason = text(self.pod, "/metadata/annotations/kuma.io~1injection-reason");
        let current = match (self.is_injected, reason) {
            (true, "") => "the Pod has a sidecar".to_owned(),
            (true, reason) => format!("the Pod has a sidecar; it was injected because of {reason}"),
            (false, _) => "the Pod has no sidecar".to_owned(),
        };
        let mut lines = vec![Line::new(current)];
        let today = Line::new(self.decision_text());
        let is_compared = self.is_injected && self.review.is_injected() && self.cluster.config_is_known;
        lines.push(if is_compared {
            today.with(self.review.difference_lines())
        } else {
            today
        });
        lines.extend(self.review.decision_lines());
        lines
    }

    /// Describes what injection would do with the Pod today.
    fn decision_text(&self) -> String {
        let is_known = self.cluster.config_is_known;
        match (self.review.state.decision, self.is_injected) {
            (Decision::Injected, true) if !is_known => {
                "today, a new Pod like this would get a sidecar; whether with the same content is unknown".to_owned()
            }
            (Decision::Injected, true) if self.review.is_up_to_date() => {
                "today, a new Pod like this would get the same sidecar".to_owned()
            }
            (Decision::Injected, true) => "today, a new Pod like this would get a different sidecar:".to_owned(),
            (Decision::NotReviewed, _) => {
                "today, the API server would call no webhook for a new Pod like this, so it would get no sidecar"
                    .to_owned()
            }
            _ => format!("today, a new Pod like this would be {}", outcome_text(&self.review.outcome)),
        }
    }

    fn injection_findings(&self) -> Vec<Finding> {
        let reference = Reference::to(self.pod);
        let restart = restart_remedy(self.pod);
        let mut findings = Vec::new();
        match (self.review.state.decision, self.is_injected) {
            (Decision::Injected, false) => {
                let cause = late_injection::cause(self.cluster, self.pod, self.review.webhooks.as_ref());
                findings.push(Finding::new(
                    "NotInjected",
                    format!("{reference} has no sidecar, but would get one today: {cause}"),
                    restart.clone(),
                ));
            }
            (Decision::Injected, true) if self.cluster.config_is_known && !self.review.is_up_to_date() => {
                findings.push(Finding::new(
                    "SidecarOutdated",
                    format!("{reference} has a sidecar that differs from what would be injected today (section Injection)"),
                    restart.clone(),
                ));
            }
            (Decision::Skipped, true) => findings.push(Finding::new(
                "WouldNotBeInjected",
                format!(
                    "{reference} has a sidecar, but a new Pod like this would be {}",
                    outcome_text(&self.review.outcome)
                ),
                format!("set the label {SIDECAR_INJECTION} to keep the sidecar; to remove it, {restart}"),
            )),
            _ => {}
        }
        findings.extend(decision_findings(&self.review, &reference));
        findings
    }

    fn dataplane(&self) -> Option<&Value> {
        let reference = Reference::to(self.pod);
        self.cluster
            .find("Dataplane", reference.namespace, reference.name)
    }

    fn dataplane_findings(&self) -> Vec<Finding> {
        if let Some(dataplane) = self.dataplane() {
            return sidecar::findings(dataplane, !containers::is_ending(self.pod));
        }
        let has_address = !text(self.pod, "/status/podIP").is_empty();
        let is_expected =
            self.cluster.can_miss("Dataplane") && has_address && !containers::is_ending(self.pod);
        // The finding about an invalid field explains the absence.
        if !is_expected || self.conversion.dataplane.is_err() {
            return Vec::new();
        }
        vec![Finding::new(
            "DataplaneMissing",
            format!(
                "{} has a sidecar and an IP, but no Dataplane",
                Reference::to(self.pod)
            ),
            "the control plane writes it within seconds: check that a replica is ready and has the Lease kuma-cp-leader, and \
             read its log",
        )]
    }

    fn sidecar_lines(&self) -> Vec<Line> {
        match self.dataplane() {
            Some(dataplane) => {
                let replica = text(dataplane, "/status/sidecar/controlPlane");
                sidecar::lines(dataplane, self.cluster.has_lost_replica(replica))
            }
            None if self.cluster.can_miss("Dataplane") => vec![Line::new("the Pod has no Dataplane")],
            None => vec![Line::new(
                "unknown, because the Dataplane of the Pod was not read",
            )],
        }
    }

    /// Returns the recent warnings about the Pod, its Dataplane, its Services and its controllers.
    fn warning_lines(&self) -> Vec<Line> {
        let pod = Reference::to(self.pod);
        let mut objects = vec![
            pod.clone(),
            Reference {
                kind: "Dataplane",
                uid: "",
                ..pod.clone()
            },
        ];
        let services = self.conversion.explanation.services.iter();
        objects.extend(
            services
                .filter(|(_, service_match)| *service_match == ServiceMatch::Selects)
                .map(|(service, _)| Reference {
                    kind: "Service",
                    name: service,
                    uid: "",
                    ..pod.clone()
                }),
        );
        let owner = controller(self.pod);
        let owner_object = owner
            .as_ref()
            .and_then(|owner| self.cluster.find(owner.kind, owner.namespace, owner.name));
        objects.extend(owner);
        objects.extend(owner_object.and_then(controller));
        events::warning_lines(self.cluster, &objects)
    }
}

/// Returns the findings about a decision that the Pod or the template itself causes.
pub(crate) fn decision_findings(review: &Review, object: &Reference<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Err(denial) = &review.outcome.explanation.result {
        findings.push(Finding::with_remedy_in_text(
            "WouldBeDenied",
            format!(
                "a new Pod like {object} would be denied ({}): {denial}",
                denial.reason()
            ),
        ));
    }
    if review.state.decision == Decision::NotReviewed {
        findings.push(Finding::new(
            "NoWebhook",
            format!("{object} requests a sidecar, but the API server calls no webhook for it (section Injection)"),
            format!(
                "use the value enabled of the label {SIDECAR_INJECTION}; Pods in the namespace of the control plane get no \
                 sidecar"
            ),
        ));
    }
    findings
}

/// Returns the assumptions about the cluster and about the decision.
pub(crate) fn assumptions(cluster: &ObservedCluster, review: &Review) -> Vec<String> {
    let of_review = review.outcome.assumptions.iter();
    cluster
        .assumptions()
        .into_iter()
        .chain(of_review.cloned())
        .collect()
}

/// Returns the command that replaces a Pod.
pub(crate) fn restart_remedy(pod: &Value) -> String {
    let namespace = text(pod, "/metadata/namespace");
    if let Some(deployment) = deployment_of(pod) {
        return format!(
            "restart its workload: kubectl -n {namespace} rollout restart deployment {deployment}"
        );
    }
    match controller(pod) {
        Some(owner) if matches!(owner.kind, "StatefulSet" | "DaemonSet") => format!(
            "restart its workload: kubectl -n {namespace} rollout restart {} {}",
            owner.kind.to_lowercase(),
            owner.name
        ),
        Some(owner) => format!(
            "delete the Pod; its {} {} creates another one",
            owner.kind, owner.name
        ),
        None => "delete the Pod and create it again".to_owned(),
    }
}

/// Returns the name of the Deployment of a Pod. A Deployment labels its Pods with the hash of their template, and appends it
/// to the name of their ReplicaSet. Other owners of ReplicaSets do not.
pub fn deployment_of(pod: &Value) -> Option<&str> {
    let owner = controller(pod).filter(|owner| owner.kind == "ReplicaSet")?;
    let hash = text(pod, "/metadata/labels/pod-template-hash");
    let name = owner.name.strip_suffix(hash).filter(|_| !hash.is_empty())?;
    name.strip_suffix('-')
}

pub(crate) fn section(title: &'static str, lines: Vec<Line>) -> Section {
    Section { title, lines }
}
