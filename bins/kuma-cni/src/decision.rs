//! Which pods are prepared. The order of the reasons is that of BEHAVIOUR section 4.5.

use std::collections::BTreeMap;

use kermode_model::annotation::SIDECAR_INJECTED;

/// What has to be known of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PodSummary {
    /// Its annotations.
    pub(crate) annotations: BTreeMap<String, String>,
    /// Names of its init containers.
    pub(crate) init_containers: Vec<String>,
    /// How many containers run side by side, native sidecars (init containers that restart) included.
    pub(crate) running_containers: usize,
}

/// Why a pod is passed through unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Skip {
    /// `kuma-init` does the work.
    HasInitContainer,
    /// There is no sidecar beside the application.
    Alone,
    /// The injector did not touch it.
    NotInjected,
}

const INIT_CONTAINER: &str = "kuma-init";

/// Whether to leave the pod alone, and why.
pub(crate) fn skip(pod: &PodSummary) -> Option<Skip> {
    if pod.init_containers.iter().any(|name| name == INIT_CONTAINER) {
        return Some(Skip::HasInitContainer);
    }
    if pod.running_containers < 2 {
        return Some(Skip::Alone);
    }
    let injected = pod
        .annotations
        .get(SIDECAR_INJECTED)
        .is_some_and(|value| value == "true");
    (!injected).then_some(Skip::NotInjected)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_pod(init_containers: &[&str], running_containers: usize, injected: Option<&str>) -> PodSummary {
        PodSummary {
            annotations: injected
                .map(|value| (SIDECAR_INJECTED.to_owned(), value.to_owned()))
                .into_iter()
                .collect(),
            init_containers: init_containers.iter().map(|&name| name.to_owned()).collect(),
            running_containers,
        }
    }

    #[test]
    fn an_injected_pod_with_a_sidecar_is_prepared() {
        assert_eq!(skip(&mk_pod(&["init-container"], 2, Some("true"))), None);
    }

    #[test]
    fn the_others_are_left_alone() {
        let init = mk_pod(&["kuma-init", "init-container"], 2, Some("true"));
        assert_eq!(skip(&init), Some(Skip::HasInitContainer));
        assert_eq!(skip(&mk_pod(&[], 1, Some("true"))), Some(Skip::Alone));
        assert_eq!(skip(&mk_pod(&[], 2, None)), Some(Skip::NotInjected));
        assert_eq!(
            skip(&mk_pod(&[], 2, Some("enabled"))),
            Some(Skip::NotInjected),
            "exactly true"
        );
    }
}
