//! State of a Pod and its containers, from the Pod's status: what is wrong, and why the Pod is not ready.

use serde_json::Value;

use crate::explanation::{Finding, Line};
use crate::observed::{Reference, condition, list, reason_and_message, text};

/// Name of the sidecar.
const SIDECAR: &str = "kuma-sidecar";
/// Name of the container that waits for the CNI plugin.
const VALIDATION: &str = "kuma-validation";
/// Containers that injection adds.
pub(crate) const INJECTED_CONTAINERS: [&str; 3] = [SIDECAR, "kuma-init", VALIDATION];

/// Status of one container.
struct ContainerStatus<'a> {
    name: &'a str,
    status: &'a Value,
    /// Whether the container runs to its end before the application starts.
    is_init: bool,
}

/// Describes the state of each container.
pub(crate) fn lines(pod: &Value) -> Vec<Line> {
    statuses(pod)
        .map(|container| {
            let restarts = container.status["restartCount"].as_u64().unwrap_or_default();
            let restarts = match restarts {
                0 => String::new(),
                1 => ", was restarted once".to_owned(),
                count => format!(", was restarted {count} times"),
            };
            Line::new(format!(
                "container {} {}{restarts}",
                container.name,
                container.state_text()
            ))
        })
        .collect()
}

/// Returns what is wrong with the Pod and its containers, according to the status of the Pod.
pub(crate) fn findings(pod: &Value) -> Vec<Finding> {
    let reference = Reference::to(pod);
    if text(pod, "/status/phase") == "Succeeded" || is_terminating(pod) {
        return Vec::new();
    }
    if text(pod, "/status/phase") == "Failed" {
        let reason = reason_and_message(&pod["status"]);
        return vec![Finding::new(
            "PodFailed",
            format!("{reference} has failed: {reason}"),
            "its containers never run again: delete the Pod; its controller replaces it",
        )];
    }
    let unscheduled = condition(pod, "PodScheduled").filter(|condition| condition["status"] == "False");
    if let Some(condition) = unscheduled {
        return vec![Finding::new(
            "Unscheduled",
            format!("{reference} runs on no node: {}", reason_and_message(condition)),
            "add nodes or free resources, or correct the requests, node selector, affinity or tolerations of the Pod",
        )];
    }
    let mut findings: Vec<Finding> = statuses(pod)
        .filter_map(|container| container.finding(&reference))
        .collect();
    if findings.is_empty()
        && let Some(reason) = unready_reason(pod)
    {
        findings.push(Finding::new(
            "PodNotReady",
            format!("{reference} is not ready: {reason}"),
            format!(
                "kubectl -n {} describe pod {}",
                reference.namespace, reference.name
            ),
        ));
    }
    findings
}

/// Returns the reason why the inbounds of a Pod are not ready; `None` if the Pod is ready or its status is unknown. The
/// order is that of the rules in `docs/reference/dataplane.md#health`.
pub(crate) fn unready_reason(pod: &Value) -> Option<String> {
    if is_terminating(pod) {
        return Some(format!(
            "the Pod is being deleted since {}",
            text(pod, "/metadata/deletionTimestamp")
        ));
    }
    let phase = text(pod, "/status/phase");
    if phase == "Succeeded" || phase == "Failed" {
        return Some(format!("the Pod has finished: its phase is {phase}"));
    }
    if let Some(ready) = condition(pod, "Ready") {
        return (ready["status"] != "True").then(|| {
            format!(
                "condition Ready of the Pod is not true: {}",
                reason_and_message(ready)
            )
        });
    }
    let unready: Vec<&str> = list(pod, "/status/containerStatuses")
        .iter()
        .filter(|status| status["ready"] == false)
        .map(|status| text(status, "/name"))
        .collect();
    (!unready.is_empty()).then(|| format!("not ready: container {}", unready.join(", container ")))
}

/// Whether the Pod is being deleted.
pub(crate) fn is_terminating(pod: &Value) -> bool {
    !text(pod, "/metadata/deletionTimestamp").is_empty()
}

/// Whether the Pod is being deleted or has finished. Nothing replaces such a Pod because of its sidecar.
pub(crate) fn is_ending(pod: &Value) -> bool {
    is_terminating(pod) || matches!(text(pod, "/status/phase"), "Succeeded" | "Failed")
}

/// Iterates over the statuses of all containers, init containers first.
fn statuses(pod: &Value) -> impl Iterator<Item = ContainerStatus<'_>> {
    let restartable = list(pod, "/spec/initContainers")
        .iter()
        .filter(|container| container["restartPolicy"] == "Always");
    let restartable: Vec<&str> = restartable.map(|container| text(container, "/name")).collect();
    let init = list(pod, "/status/initContainerStatuses")
        .iter()
        .map(move |status| {
            let name = text(status, "/name");
            ContainerStatus {
                name,
                status,
                is_init: !restartable.contains(&name),
            }
        });
    let others = list(pod, "/status/containerStatuses")
        .iter()
        .map(|status| ContainerStatus {
            name: text(status, "/name"),
            status,
            is_init: false,
        });
    init.chain(others)
}

// === impl ContainerStatus ===

impl ContainerStatus<'_> {
    fn state_text(&self) -> String {
        let state = &self.status["state"];
        if let Some(running) = state.get("running") {
            let since = text(running, "/startedAt");
            return match (self.is_init, self.status["ready"] == true) {
                (true, _) => format!("runs since {since}, and delays the application until it ends"),
                (false, true) => format!("runs since {since} and is ready"),
                (false, false) => format!("runs since {since} and is not ready"),
            };
        }
        if let Some(terminated) = state.get("terminated") {
            let code = terminated["exitCode"].as_i64().unwrap_or_default();
            return format!(
                "has ended with exit code {code} ({})",
                text(terminated, "/reason")
            );
        }
        match state.get("waiting") {
            Some(waiting) => format!("waits ({})", reason_and_message(waiting)),
            None => "has no state yet".to_owned(),
        }
    }

    fn finding(&self, pod: &Reference<'_>) -> Option<Finding> {
        let state = &self.status["state"];
        if let Some(waiting) = state.get("waiting") {
            return self.waiting_finding(pod, waiting);
        }
        if let Some(terminated) = state.get("terminated") {
            return (terminated["exitCode"] != 0).then(|| self.failed_finding(pod, terminated));
        }
        let killed = &self.status["lastState"]["terminated"];
        if killed["reason"] == "OOMKilled" && self.status["ready"] != true {
            return Some(self.failed_finding(pod, killed));
        }
        let running = state.get("running")?;
        if self.is_init {
            return (self.name == VALIDATION).then(|| {
                Finding::new(
                    "WaitsForRedirection",
                    format!("container {VALIDATION} of {pod} waits for the redirection of the Pod's traffic"),
                    "check that the DaemonSet kuma-cni in namespace kube-system has a ready Pod on the node \
                     (docs/operations.md#cni-plugin)",
                )
            });
        }
        (self.status["ready"] != true).then(|| self.unready_finding(pod, running))
    }

    fn waiting_finding(&self, pod: &Reference<'_>, waiting: &Value) -> Option<Finding> {
        let (name, why) = (self.name, reason_and_message(waiting));
        match text(waiting, "/reason") {
            "" | "PodInitializing" | "ContainerCreating" => None,
            "CrashLoopBackOff" => {
                let last = &self.status["lastState"]["terminated"];
                Some(self.failed_finding(pod, last))
            }
            "ErrImagePull"
            | "ImagePullBackOff"
            | "InvalidImageName"
            | "ErrImageNeverPull"
            | "RegistryUnavailable" => {
                let remedy = if INJECTED_CONTAINERS.contains(&name) {
                    "check the image in the control plane's configuration, and the credentials of the registry in this \
                     namespace (docs/operations.md#images-from-a-private-registry)"
                } else {
                    "check the name of the image and the imagePullSecrets of the Pod"
                };
                let image = text(self.status, "/image");
                Some(Finding::new(
                    "ImageNotPulled",
                    format!("image {image} of container {name} of {pod} cannot be pulled: {why}"),
                    remedy,
                ))
            }
            _ => Some(Finding::new(
                "ContainerNotCreated",
                format!("container {name} of {pod} cannot be started: {why}"),
                format!("kubectl -n {} describe pod {}", pod.namespace, pod.name),
            )),
        }
    }

    /// Describes a container that has failed or fails repeatedly. `terminated` is its last end.
    fn failed_finding(&self, pod: &Reference<'_>, terminated: &Value) -> Finding {
        let name = self.name;
        let restarts = self.status["restartCount"].as_u64().unwrap_or_default();
        let (code, at) = (&terminated["exitCode"], text(terminated, "/finishedAt"));
        if text(terminated, "/reason") == "OOMKilled" {
            let remedy = if name == SIDECAR {
                "raise the memory limit of the sidecar by a ContainerPatch or by the setting \
                 sidecarContainer.resources.limits.memory"
            } else {
                "raise the memory limit of the container"
            };
            return Finding::new(
                "OutOfMemory",
                format!(
                    "container {name} of {pod} exceeded its memory limit and was killed at {at}; restarts: {restarts}"
                ),
                remedy,
            );
        }
        let previous = if restarts > 0 { " --previous" } else { "" };
        let (namespace, pod_name) = (pod.namespace, pod.name);
        Finding::new(
            "ContainerFailed",
            format!(
                "container {name} of {pod} ended with exit code {code} ({}) at {at}; restarts: {restarts}",
                text(terminated, "/reason")
            ),
            format!("its log names the reason: kubectl -n {namespace} logs {pod_name} -c {name}{previous}"),
        )
    }

    fn unready_finding(&self, pod: &Reference<'_>, running: &Value) -> Finding {
        let (name, since) = (self.name, text(running, "/startedAt"));
        let (namespace, pod_name) = (pod.namespace, pod.name);
        let remedy = if name == SIDECAR {
            format!(
                "the sidecar becomes ready with its first configuration from the control plane; its log says what it waits \
                 for: kubectl -n {namespace} logs {pod_name} -c {name}"
            )
        } else {
            format!(
                "an Event Unhealthy below names the result of its readiness probe; see also kubectl -n {namespace} logs \
                 {pod_name} -c {name}"
            )
        };
        Finding::new(
            "ContainerNotReady",
            format!("container {name} of {pod} runs since {since} and is not ready"),
            remedy,
        )
    }
}

/// Returns the state of a Pod in a few words, for lists of Pods.
pub(crate) fn short_state(pod: &Value) -> String {
    if is_terminating(pod) {
        return "is being deleted".to_owned();
    }
    let phase = text(pod, "/status/phase");
    let is_ready = condition(pod, "Ready").is_some_and(|condition| condition["status"] == "True");
    match (phase, is_ready) {
        ("Running", true) => "ready".to_owned(),
        ("Running", false) => "not ready".to_owned(),
        ("", _) => "no status".to_owned(),
        (phase, _) => phase.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod_with(status: Value) -> Value {
        json!({
            "kind": "Pod",
            "metadata": {"namespace": "shop", "name": "web"},
            "spec": {"initContainers": [{"name": "kuma-init"}, {"name": "kuma-sidecar", "restartPolicy": "Always"}]},
            "status": status,
        })
    }

    fn ids(status: Value) -> Vec<&'static str> {
        findings(&pod_with(status))
            .iter()
            .map(|finding| finding.id)
            .collect()
    }

    #[test]
    fn every_kind_of_failure_has_an_id() {
        let container =
            |state: Value| json!({"containerStatuses": [{"name": "app", "ready": false, "state": state}]});
        for (status, expected) in [
            (
                container(json!({"waiting": {"reason": "ImagePullBackOff"}})),
                "ImageNotPulled",
            ),
            (
                container(json!({"waiting": {"reason": "CreateContainerConfigError"}})),
                "ContainerNotCreated",
            ),
            (
                container(json!({"waiting": {"reason": "CrashLoopBackOff"}})),
                "ContainerFailed",
            ),
            (
                container(json!({"terminated": {"exitCode": 1}})),
                "ContainerFailed",
            ),
            (container(json!({"running": {}})), "ContainerNotReady"),
            (json!({"phase": "Failed", "reason": "Evicted"}), "PodFailed"),
            (
                json!({"conditions": [{"type": "PodScheduled", "status": "False"}]}),
                "Unscheduled",
            ),
            (
                json!({"conditions": [{"type": "Ready", "status": "False"}]}),
                "PodNotReady",
            ),
            (
                json!({"initContainerStatuses": [{"name": "kuma-validation", "state": {"running": {}}}]}),
                "WaitsForRedirection",
            ),
        ] {
            assert_eq!(ids(status.clone()), [expected], "{status}");
        }
    }

    #[test]
    fn containers_that_work_or_are_about_to_start_are_no_findings() {
        for status in [
            json!({}),
            json!({"phase": "Succeeded"}),
            json!({"containerStatuses": [{"name": "app", "state": {"waiting": {"reason": "PodInitializing"}}}]}),
            json!({"containerStatuses": [{"name": "app", "ready": true, "state": {"running": {}}}]}),
            json!({"containerStatuses": [{
                "name": "app", "ready": true, "state": {"running": {}},
                "lastState": {"terminated": {"reason": "OOMKilled", "exitCode": 137}},
            }]}),
            json!({"initContainerStatuses": [
                {"name": "kuma-init", "state": {"terminated": {"exitCode": 0}}},
                {"name": "kuma-sidecar", "ready": true, "state": {"running": {}}},
            ]}),
        ] {
            assert!(ids(status.clone()).is_empty(), "{status}");
        }
    }

    #[test]
    fn memory_limit_is_named_with_a_remedy_for_the_sidecar() {
        let status = json!({"initContainerStatuses": [{
            "name": "kuma-sidecar", "ready": false, "restartCount": 2, "state": {"running": {}},
            "lastState": {"terminated": {"reason": "OOMKilled", "exitCode": 137, "finishedAt": "2026-01-01T00:00:00Z"}},
        }]});
        let findings = findings(&pod_with(status));
        assert_eq!(findings[0].id, "OutOfMemory");
        assert!(
            findings[0]
                .remedy
                .as_deref()
                .is_some_and(|remedy| remedy.contains("ContainerPatch"))
        );
    }

    #[test]
    fn reason_of_an_unready_pod_follows_the_rules_of_health() {
        let mut pod = pod_with(json!({"conditions": [{
            "type": "Ready", "status": "False", "reason": "ContainersNotReady", "message": "unready status: [app]",
        }]}));
        let reason = unready_reason(&pod).expect("a reason");
        assert!(
            reason.ends_with("ContainersNotReady: unready status: [app]"),
            "{reason}"
        );
        pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        assert!(unready_reason(&pod).expect("a reason").contains("being deleted"));
        let without_condition = pod_with(json!({"containerStatuses": [{"name": "app", "ready": false}]}));
        assert_eq!(
            unready_reason(&without_condition).as_deref(),
            Some("not ready: container app")
        );
        assert_eq!(unready_reason(&pod_with(json!({}))), None);
    }
}
