//! Differences between the sidecars of Pods and those that would be injected today, grouped by workload.

use std::collections::BTreeMap;

use kermode_manifests::ManifestError;
use serde::Serialize;
use serde_json::Value;

use crate::explanation::{Decision, Line, lines_text};
use crate::observed::{Reference, controller, name_of, text};
use crate::pod::deployment_of;
use crate::reviewer::{PodReview, PodReviewer};

/// Number of Pods that a line of the text names at most.
const NAMED_PODS: usize = 5;

/// Differences of several Pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SidecarDifferences {
    /// Number of compared Pods. Pods that terminate or have finished are left out.
    pub compared: usize,
    /// Differences by workload, for example `Deployment shop/web`, or by Pod for a Pod without controller.
    pub workloads: BTreeMap<String, Vec<SidecarDifference>>,
}

/// Pods of one workload with the same difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SidecarDifference {
    /// Names of the Pods.
    pub pods: Vec<String>,
    /// Kind of the difference.
    pub change: SidecarChange,
    /// The fields that differ, or the reason of the decision.
    pub details: Vec<String>,
}

/// The sidecar that a new Pod like the compared one would get.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum SidecarChange {
    /// A sidecar, which the Pod does not have.
    Added,
    /// Another sidecar.
    Changed,
    /// No sidecar, unlike the Pod.
    Removed,
    /// It would be denied.
    Denied,
}

// === impl SidecarDifferences ===

impl SidecarDifferences {
    /// Compares a Pod, and adds its difference.
    ///
    /// # Errors
    /// If the Pod cannot be decoded.
    pub fn add_pod(&mut self, reviewer: &PodReviewer<'_>, pod: &Value) -> Result<(), ManifestError> {
        let review = reviewer.review(pod)?;
        if review.is_ending {
            return Ok(());
        }
        self.compared += 1;
        let Some((change, details)) = change(review) else {
            return Ok(());
        };
        let differences = self.workloads.entry(workload(pod)).or_default();
        let name = name_of(pod).to_owned();
        let same = differences
            .iter_mut()
            .find(|difference| difference.change == change && difference.details == details);
        match same {
            Some(difference) => difference.pods.push(name),
            None => differences.push(SidecarDifference {
                pods: vec![name],
                change,
                details,
            }),
        }
        Ok(())
    }

    /// Formats the differences for people.
    pub fn to_text(&self) -> String {
        if self.workloads.is_empty() {
            return format!("{} Pods compared, no sidecar differs.\n", self.compared);
        }
        let lines: Vec<Line> = self
            .workloads
            .iter()
            .map(|(workload, differences)| {
                Line::new(workload).with(differences.iter().map(SidecarDifference::line))
            })
            .collect();
        lines_text(&lines, 0)
    }
}

// === impl SidecarDifference ===

impl SidecarDifference {
    fn line(&self) -> Line {
        let named: Vec<&str> = self.pods.iter().take(NAMED_PODS).map(String::as_str).collect();
        let more = match self.pods.len().saturating_sub(NAMED_PODS) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let change = match self.change {
            SidecarChange::Added => "no sidecar, a new Pod would get one",
            SidecarChange::Changed => "a new Pod would get a different sidecar",
            SidecarChange::Removed => "a new Pod would get no sidecar",
            SidecarChange::Denied => "a new Pod would be denied",
        };
        Line::new(format!("{}{more}: {change}", named.join(", "))).with(self.details.iter().map(Line::new))
    }
}

/// Returns the difference between a Pod and a new Pod like it; `None` if there is none.
fn change(review: PodReview) -> Option<(SidecarChange, Vec<String>)> {
    let is_injected = review.state.injected == Some(true);
    match (review.state.decision, is_injected) {
        (Decision::Injected, false) => Some((SidecarChange::Added, vec![review.state.reason])),
        (Decision::Injected, true) if !review.differences.is_empty() => {
            Some((SidecarChange::Changed, review.differences))
        }
        (Decision::Skipped | Decision::NotReviewed, true) => {
            Some((SidecarChange::Removed, vec![review.state.reason]))
        }
        (Decision::Denied, _) => Some((SidecarChange::Denied, review.denial.into_iter().collect())),
        _ => None,
    }
}

/// Returns the workload of a Pod: its Deployment, else its controller, else the Pod.
fn workload(pod: &Value) -> String {
    let namespace = text(pod, "/metadata/namespace");
    match (deployment_of(pod), controller(pod)) {
        (Some(deployment), _) => format!("Deployment {namespace}/{deployment}"),
        (None, Some(owner)) => owner.to_string(),
        (None, None) => Reference::to(pod).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::observed::ObservedCluster;

    fn pod(name: &str, annotations: Value) -> Value {
        let hash = "5d9";
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "namespace": "shop", "name": name, "annotations": annotations, "labels": {"pod-template-hash": hash},
                "ownerReferences": [{"kind": "ReplicaSet", "name": format!("web-{hash}"), "controller": true}],
            },
            "spec": {"containers": [{"name": "app", "image": "a"}]},
        })
    }

    #[test]
    fn pods_with_the_same_difference_are_one_entry_of_their_workload() {
        let cluster = ObservedCluster {
            objects: vec![json!({
                "apiVersion": "v1", "kind": "Namespace",
                "metadata": {"name": "shop", "labels": {"kuma.io/sidecar-injection": "enabled"}},
            })],
            config_is_known: true,
            ..ObservedCluster::default()
        };
        let reviewer = PodReviewer::new(&cluster).expect("objects");
        let mut differences = SidecarDifferences::default();
        let mut add = |pod: &Value| differences.add_pod(&reviewer, pod).expect("a Pod");
        add(&pod("a", json!({})));
        add(&pod("b", json!({})));
        let mut ended = pod("ended", json!({}));
        ended["status"]["phase"] = "Failed".into();
        add(&ended);
        add(&pod("changed", json!({"kuma.io/sidecar-injected": "true"})));
        let mut bare = pod("bare", json!({"kuma.io/container-patches": "gone"}));
        bare["metadata"]["ownerReferences"] = json!([]);
        add(&bare);
        let mut skipped = pod("skipped", json!({"kuma.io/sidecar-injected": "true"}));
        skipped["metadata"]["labels"] = json!({"kuma.io/sidecar-injection": "disabled"});
        skipped["metadata"]["ownerReferences"] =
            json!([{"kind": "StatefulSet", "name": "db", "controller": true}]);
        add(&skipped);
        let mut outside = pod("outside", json!({}));
        outside["metadata"]["namespace"] = "other".into();
        add(&outside);

        assert_eq!(differences.compared, 6);
        let found: Vec<String> = differences
            .workloads
            .iter()
            .flat_map(|(workload, differences)| differences.iter().map(move |entry| (workload, entry)))
            .map(|(workload, entry)| format!("{workload} {:?} {}", entry.change, entry.pods.join(",")))
            .collect();
        let expected = [
            "Deployment shop/web Added a,b",
            "Deployment shop/web Changed changed",
            "Pod shop/bare Denied bare",
            "StatefulSet shop/db Removed skipped",
        ];
        assert_eq!(found, expected);
        let text = differences.to_text();
        assert!(
            text.starts_with(
                "Deployment shop/web\n  a, b: no sidecar, a new Pod would get one\n    NamespaceLabel\n"
            ),
            "{text}"
        );
    }
}
