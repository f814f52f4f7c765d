//! Reviews of many Pods: whether each Pod has a sidecar, and what injection would do with it today.

use kermode_crds::annotation::SIDECAR_INJECTED;
use kermode_manifests::{ClusterObjects, ManifestError};
use serde_json::Value;

use crate::containers;
use crate::explanation::{Decision, InjectionState};
use crate::injection::Review;
use crate::observed::ObservedCluster;

/// Reviews Pods with the objects of a cluster, which are decoded once for all Pods.
pub struct PodReviewer<'a> {
    cluster: &'a ObservedCluster,
    objects: ClusterObjects,
}

/// State of the sidecar of one Pod, and the decision of the injector today.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodReview {
    /// Whether the Pod is being deleted or has finished.
    pub is_ending: bool,
    /// Whether the Pod has a sidecar, and the decision about a new Pod like it.
    pub state: InjectionState,
    /// Message of the denial, if a new Pod like this one would be denied.
    pub denial: Option<String>,
    /// Differences between the Pod and what would be injected today. Empty for a Pod without a sidecar, and if the
    /// configuration of the control plane is not known.
    pub differences: Vec<String>,
}

// === impl PodReviewer ===

impl<'a> PodReviewer<'a> {
    /// Returns a reviewer. `cluster` needs no Pods.
    ///
    /// # Errors
    /// If a Namespace or a ContainerPatch cannot be decoded.
    pub fn new(cluster: &'a ObservedCluster) -> Result<Self, ManifestError> {
        let objects = ClusterObjects::new(&cluster.objects, cluster.config.system_namespace())?;
        Ok(Self { cluster, objects })
    }

    /// Reviews a Pod.
    ///
    /// # Errors
    /// If the Pod cannot be decoded.
    pub fn review(&self, pod: &Value) -> Result<PodReview, ManifestError> {
        let review = Review::with_objects(self.cluster, &self.objects, pod, "")?;
        let is_injected = pod["metadata"]["annotations"][SIDECAR_INJECTED] == "true";
        let mut state = review.state.clone();
        state.injected = Some(is_injected);
        let denial = review.outcome.explanation.result.as_ref().err();
        let denial = denial.map(ToString::to_string);
        let is_compared = is_injected && self.cluster.config_is_known && state.decision == Decision::Injected;
        let differences = if is_compared {
            review.into_differences()
        } else {
            Vec::new()
        };
        Ok(PodReview {
            is_ending: containers::is_ending(pod),
            state,
            denial,
            differences,
        })
    }
}
