//! Restarts of containers by the kubelet: the policy of the Pod, and policy and rules of a single container (feature gate
//! `ContainerRestartRules`,
//! <https://github.com/kubernetes/enhancements/tree/master/keps/sig-node/5307-container-restart-policy>).

use k8s_openapi::api::core::v1::{Container, ContainerRestartRule};

/// Restart policy of a Pod's containers, or of one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartPolicy {
    /// All containers are restarted.
    Always,
    /// Failed containers are restarted.
    OnFailure,
    /// No container is restarted.
    Never,
}

impl RestartPolicy {
    /// Reads a field `restartPolicy`; `None` if the field is absent or its value is unknown.
    pub(super) fn read(field: Option<&str>) -> Option<Self> {
        match field? {
            "Always" => Some(Self::Always),
            "OnFailure" => Some(Self::OnFailure),
            "Never" => Some(Self::Never),
            _ => None,
        }
    }

    fn restarts(self, exit_code: i32) -> bool {
        match self {
            Self::Always => true,
            Self::OnFailure => exit_code != 0,
            Self::Never => false,
        }
    }
}

/// Whether the kubelet restarts a container that has ended with this exit code. `container` is `None` if only the status
/// of the Pod names it. An unknown policy of the Pod counts as `Never`.
///
/// Rules come first, then the policy of the container, then that of the Pod; the kubelet ignores rules of a container
/// without a policy. Every rule that applies counts as a restart, because each action known so far restarts the
/// container, alone or with all others: a sidecar that ends too early would leave the restarted application without one.
pub(super) fn is_restarted(
    container: Option<&Container>,
    pod_policy: Option<RestartPolicy>,
    exit_code: i32,
) -> bool {
    let own_policy = container.and_then(|container| container.restart_policy.as_deref());
    let rules = container
        .filter(|_| own_policy.is_some())
        .and_then(|container| container.restart_policy_rules.as_deref());
    if rules.into_iter().flatten().any(|rule| applies(rule, exit_code)) {
        return true;
    }
    RestartPolicy::read(own_policy)
        .or(pod_policy)
        .is_some_and(|policy| policy.restarts(exit_code))
}

fn applies(rule: &ContainerRestartRule, exit_code: i32) -> bool {
    rule.exit_codes.as_ref().is_some_and(|exit_codes| {
        let is_listed = exit_codes
            .values
            .iter()
            .flatten()
            .any(|value| *value == exit_code);
        match exit_codes.operator.as_str() {
            "In" => is_listed,
            "NotIn" => !is_listed,
            _ => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// Returns whether a container with these members, in a Pod that restarts none, is restarted after each exit code.
    fn restarts<const N: usize>(members: Value, exit_codes: [i32; N]) -> [bool; N] {
        let mut container = json!({"name": "app"});
        container
            .as_object_mut()
            .unwrap()
            .extend(members.as_object().unwrap().clone());
        let container: Container = serde_json::from_value(container).unwrap();
        exit_codes.map(|code| is_restarted(Some(&container), Some(RestartPolicy::Never), code))
    }

    fn rule(action: &str, operator: &str, values: Value) -> Value {
        json!({"action": action, "exitCodes": {"operator": operator, "values": values}})
    }

    #[test]
    fn policy_of_a_container_takes_the_place_of_that_of_its_pod() {
        assert_eq!(restarts(json!({}), [0, 1]), [false, false]);
        assert_eq!(
            restarts(json!({"restartPolicy": "OnFailure"}), [0, 1]),
            [false, true]
        );
        assert_eq!(restarts(json!({"restartPolicy": "Always"}), [0, 1]), [true, true]);
        let never: Container =
            serde_json::from_value(json!({"name": "app", "restartPolicy": "Never"})).unwrap();
        assert!(!is_restarted(Some(&never), Some(RestartPolicy::Always), 1));
        assert!(is_restarted(None, Some(RestartPolicy::OnFailure), 1));
    }

    #[test]
    fn rule_that_applies_to_the_exit_code_restarts_the_container_whatever_its_policy() {
        let with = |rules: Value| json!({"restartPolicy": "Never", "restartPolicyRules": rules});
        let rules = json!([rule("Restart", "In", json!([42, 43]))]);
        assert_eq!(restarts(with(rules), [0, 1, 42, 43]), [false, false, true, true]);
        let rules = json!([rule("Restart", "NotIn", json!([0, 1]))]);
        assert_eq!(restarts(with(rules), [0, 1, 42]), [false, false, true]);
        let rules = json!([
            rule("Restart", "In", json!([1])),
            rule("RestartAllContainers", "In", json!([88])),
        ]);
        assert_eq!(restarts(with(rules), [0, 1, 88]), [false, true, true]);
    }

    #[test]
    fn rule_without_a_known_condition_and_rules_without_a_policy_have_no_effect() {
        let unknown = json!([rule("Restart", "GreaterThan", json!([1])), {"action": "Restart"}]);
        let members = json!({"restartPolicy": "Never", "restartPolicyRules": unknown});
        assert_eq!(restarts(members, [0, 2]), [false, false]);
        let members = json!({"restartPolicyRules": [rule("Restart", "In", json!([1]))]});
        assert_eq!(restarts(members, [1]), [false]);
    }
}
