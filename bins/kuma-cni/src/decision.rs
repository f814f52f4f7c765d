//! Decides which pods get rules (docs/reference/transparent-proxying.md#cni).
//!
//! A pod gets rules if its namespace is not excluded, and if it has a sidecar but no init container `kuma-init`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use kermode_model::annotation::{SIDECAR_INJECTED, marks_injected};

/// Fields of a pod that the decision reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodSummary {
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Names of init containers.
    pub init_containers: Vec<String>,
    /// Number of long-running containers, including native sidecars (restartable init containers).
    pub long_running_containers: usize,
}

/// Reason for which a pod is skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SkipReason {
    /// The pod has the init container `kuma-init`, which applies the rules.
    HasKumaInit,
    /// The pod has fewer than two long-running containers, so it has no sidecar.
    SingleContainer,
    /// The pod was not injected.
    NotInjected,
}

/// Init container that applies the rules in place of the CNI plugin.
const INIT_CONTAINER: &str = "kuma-init";

/// Whether no pod of the namespace gets rules. `excluded` are the namespaces in the plugin's configuration.
pub fn is_excluded(namespace: &str, excluded: &[String]) -> bool {
    excluded.iter().any(|other| other == namespace)
}

/// Returns the reason for skipping a pod; `None` if the pod gets rules.
pub fn skip_reason(pod: &PodSummary) -> Option<SkipReason> {
    if pod.init_containers.iter().any(|name| name == INIT_CONTAINER) {
        return Some(SkipReason::HasKumaInit);
    }
    if pod.long_running_containers < 2 {
        return Some(SkipReason::SingleContainer);
    }
    let is_injected = pod
        .annotations
        .get(SIDECAR_INJECTED)
        .is_some_and(|value| marks_injected(value));
    (!is_injected).then_some(SkipReason::NotInjected)
}

/// Extracts the fields that the decision reads.
pub fn summarize(pod: Pod) -> PodSummary {
    let spec = pod.spec.unwrap_or_default();
    let init_containers = spec.init_containers.unwrap_or_default();
    let native_sidecars = init_containers
        .iter()
        .filter(|container| container.restart_policy.as_deref() == Some("Always"));
    PodSummary {
        long_running_containers: spec.containers.len() + native_sidecars.count(),
        annotations: pod.metadata.annotations.unwrap_or_default(),
        init_containers: init_containers
            .into_iter()
            .map(|container| container.name)
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_pod(
        init_containers: &[&str],
        long_running_containers: usize,
        sidecar_injected: Option<&str>,
    ) -> PodSummary {
        PodSummary {
            annotations: sidecar_injected
                .map(|value| (SIDECAR_INJECTED.to_owned(), value.to_owned()))
                .into_iter()
                .collect(),
            init_containers: init_containers.iter().map(|&name| name.to_owned()).collect(),
            long_running_containers,
        }
    }

    #[test]
    fn injected_pod_with_a_sidecar_gets_rules() {
        assert_eq!(skip_reason(&mk_pod(&["init-container"], 2, Some("true"))), None);
    }

    #[test]
    fn pod_is_skipped_if_it_has_kuma_init_or_one_container_or_was_not_injected() {
        let with_kuma_init = mk_pod(&["kuma-init", "init-container"], 2, Some("true"));
        assert_eq!(skip_reason(&with_kuma_init), Some(SkipReason::HasKumaInit));
        assert_eq!(
            skip_reason(&mk_pod(&[], 1, Some("true"))),
            Some(SkipReason::SingleContainer)
        );
        assert_eq!(skip_reason(&mk_pod(&[], 2, None)), Some(SkipReason::NotInjected));
        assert_eq!(
            skip_reason(&mk_pod(&[], 2, Some("false"))),
            Some(SkipReason::NotInjected)
        );
        assert_eq!(
            skip_reason(&mk_pod(&[], 2, Some("yes"))),
            Some(SkipReason::NotInjected),
            "a value that is not a boolean must not count as injected"
        );
    }

    #[test]
    fn pod_with_the_annotation_value_enabled_counts_as_injected() {
        assert_eq!(skip_reason(&mk_pod(&[], 2, Some("enabled"))), None);
    }

    #[test]
    fn native_sidecar_counts_as_long_running_container() {
        let pod = serde_json::json!({
            "metadata": { "annotations": { "kuma.io/sidecar-injected": "true" } },
            "spec": {
                "initContainers": [{ "name": "kuma-sidecar", "restartPolicy": "Always" }, { "name": "migrate" }],
                "containers": [{ "name": "app" }],
            },
        });
        let summary = summarize(serde_json::from_value(pod).expect("a pod"));
        assert_eq!(summary.long_running_containers, 2);
        assert_eq!(summary.init_containers, ["kuma-sidecar", "migrate"]);
        assert_eq!(summary.annotations.len(), 1);
    }
}
