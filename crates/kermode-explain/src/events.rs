//! Recent warnings: the Events of type Warning about an object and the objects that belong to it, with remedies.

use serde_json::Value;

use crate::explanation::Line;
use crate::observed::{ObservedCluster, Reference, event_time, text};

/// Number of Events that are shown.
const MAX_EVENTS: usize = 8;

/// Reasons of Events and their remedies. The reasons of Kermode are in docs/reference/admission-messages.md#events.
const REMEDIES: &[(&str, &str)] = &[
    (
        "BackOff",
        "see the log of the container, with kubectl logs --previous",
    ),
    (
        "ConflictingProtocols",
        "declare the same appProtocol for the port in all Services",
    ),
    (
        "Failed",
        "check the image, its registry and the settings of the container that the message names",
    ),
    (
        "FailedCreate",
        "the message names the object that prevents the Pod, and what to correct",
    ),
    (
        "FailedCreatePodSandBox",
        "the network of the node failed: check the CNI plugins (docs/operations.md#cni-plugin)",
    ),
    (
        "FailedMount",
        "create the Secret, ConfigMap or volume that the message names",
    ),
    ("FailedPostStartHook", "see the log of the container"),
    (
        "FailedPreStopHook",
        "for kuma-sidecar: the image of the sidecar is older than the control plane (docs/operations.md#upgrading)",
    ),
    (
        "FailedScheduling",
        "add nodes, or correct the requests, node selector or tolerations of the Pod",
    ),
    (
        "FailedToGenerateKumaDataplane",
        "correct the field that the message names (docs/operations.md#a-pod-without-a-dataplane)",
    ),
    (
        "FailedToRetrieveImagePullSecret",
        "create the Secret in this namespace (docs/operations.md#images-from-a-private-registry)",
    ),
    (
        "PlainTextConnectionClosed",
        "create a Service for the port, or exclude it (docs/operations.md#ports-that-no-service-names)",
    ),
    (
        "ProbeNotRewritten",
        "the message names the annotation or port to change",
    ),
    (
        "ServiceWithoutInbound",
        "the message names the field of the Service to correct",
    ),
    (
        "TargetPortNotFound",
        "correct targetPort of the Service, or name the port in the container",
    ),
    (
        "TargetPortOfSidecar",
        "declare the port in the container, so that the sidecar uses another one",
    ),
    (
        "TrafficNotRedirected",
        "the message names the reason (docs/operations.md#cni-plugin)",
    ),
    (
        "Unhealthy",
        "the message contains the response to the probe; see the log of the container",
    ),
    ("WrongAnnotation", "set the annotation to enabled or disabled"),
];

/// Returns the last warnings about objects, from the oldest to the newest.
pub(crate) fn warning_lines(cluster: &ObservedCluster, objects: &[Reference<'_>]) -> Vec<Line> {
    let mut events: Vec<&Value> = objects
        .iter()
        .flat_map(|object| cluster.events_about(object))
        .filter(|event| event["type"] == "Warning")
        .collect();
    events.sort_by_key(|event| identity(event));
    events.dedup_by_key(|event| identity(event));
    let skipped = events.len().saturating_sub(MAX_EVENTS);
    events.into_iter().skip(skipped).map(line).collect()
}

/// Returns the time and the name of an Event.
fn identity(event: &Value) -> (&str, &str, &str) {
    let namespace = text(event, "/metadata/namespace");
    (event_time(event), namespace, text(event, "/metadata/name"))
}

fn line(event: &Value) -> Line {
    let about = &event["involvedObject"];
    let count = event["series"]["count"]
        .as_u64()
        .or(event["count"].as_u64())
        .unwrap_or(1);
    let times = if count > 1 {
        format!(", {count} times")
    } else {
        String::new()
    };
    let reason = text(event, "/reason");
    let remedy = REMEDIES.iter().find(|(known, _)| *known == reason);
    Line::new(format!(
        "{} {} {}: {reason}{times}: {}",
        event_time(event),
        text(about, "/kind"),
        text(about, "/name"),
        text(event, "/message").trim()
    ))
    .with(remedy.map(|(_, remedy)| Line::new(format!("remedy: {remedy}"))))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn newest_warnings_are_shown_in_order_with_remedies() {
        let event = |second: usize, kind: &str| {
            json!({
                "kind": "Event", "type": kind, "reason": "Unhealthy", "message": format!("m{second}"),
                "metadata": {"name": format!("e{second}")},
                "lastTimestamp": format!("2026-01-01T00:00:{second:02}Z"),
                "involvedObject": {"kind": "Pod", "namespace": "shop", "name": "web"},
            })
        };
        let mut objects: Vec<Value> = (0..12).rev().map(|second| event(second, "Warning")).collect();
        objects.push(event(20, "Normal"));
        let mut about_other_pod = event(21, "Warning");
        about_other_pod["involvedObject"]["name"] = "db".into();
        objects.push(about_other_pod);
        let cluster = ObservedCluster {
            objects,
            ..ObservedCluster::default()
        };
        let pod = Reference {
            kind: "Pod",
            namespace: "shop",
            name: "web",
            uid: "",
        };
        // The Pod is listed twice, as an object that is its own owner would be.
        let lines = warning_lines(&cluster, &[pod.clone(), pod]);
        let texts: Vec<&str> = lines
            .iter()
            .map(|line| line.text.rsplit(' ').next().expect("a word"))
            .collect();
        assert_eq!(texts, ["m4", "m5", "m6", "m7", "m8", "m9", "m10", "m11"]);
        assert!(
            lines[0].details[0]
                .text
                .starts_with("remedy: the message contains")
        );
    }
}
