//! State of a sidecar, as the replicas of the control plane write it into the status of the Dataplane.

use kermode_crds::condition::{CONFIGURATION_ACCEPTED, CONNECTED};
use serde_json::Value;

use crate::explanation::{Finding, Line};
use crate::observed::{Reference, condition, list, reason_and_message, text};

/// Describes the connection of the sidecar, and the configuration that it has acknowledged and rejected. `is_stale`: the
/// replica that has written the status no longer exists.
pub(crate) fn lines(dataplane: &Value, is_stale: bool) -> Vec<Line> {
    let sidecar = &dataplane["status"]["sidecar"];
    let mut lines = Vec::new();
    let inbounds = text(dataplane, "/status/inbounds/summary");
    if inbounds == "gateway" {
        lines.push(Line::new("the Dataplane is a gateway"));
    } else if !inbounds.is_empty() {
        lines.push(Line::new(format!("ready inbounds: {inbounds}")));
    }
    lines.push(connection(dataplane, sidecar));
    if is_stale {
        lines.push(Line::new(format!(
            "replica {} no longer exists, and no other replica has reported the sidecar since: the state in this section \
             may be old",
            text(sidecar, "/controlPlane")
        )));
    }
    let configuration = &sidecar["configuration"];
    let (sent, acknowledged) = (text(configuration, "/sent"), text(configuration, "/acknowledged"));
    if !sent.is_empty() {
        let acknowledged = if acknowledged.is_empty() {
            "none"
        } else {
            acknowledged
        };
        lines.push(Line::new(format!(
            "version of the configuration: {sent} sent, {acknowledged} acknowledged; written every five minutes \
             (docs/operations.md#configuration-of-a-proxy)"
        )));
    }
    lines.extend(condition(dataplane, CONFIGURATION_ACCEPTED).map(|accepted| {
        if accepted["status"] == "True" {
            Line::new("the sidecar has rejected nothing of its newest configuration")
        } else {
            Line::new(format!(
                "the sidecar rejects configuration: {}",
                reason_and_message(accepted)
            ))
        }
    }));
    lines.extend(last_rejection(configuration));
    lines
}

/// Returns what is wrong with the connection and the configuration of the sidecar. `is_running` is false for a Pod that
/// ends or has finished, whose sidecar disconnects.
pub(crate) fn findings(dataplane: &Value, is_running: bool) -> Vec<Finding> {
    let reference = Reference::to(dataplane);
    let (namespace, pod) = (reference.namespace, reference.name);
    let is_false = |kind: &str| condition(dataplane, kind).filter(|condition| condition["status"] == "False");
    let mut findings = Vec::new();
    if let Some(connected) = is_false(CONNECTED).filter(|_| is_running) {
        findings.push(Finding::new(
            "SidecarDisconnected",
            format!(
                "the sidecar of {reference} has no connection to the control plane since {}: {}",
                text(connected, "/lastTransitionTime"),
                reason_and_message(connected)
            ),
            format!(
                "the log of the sidecar names the reason: kubectl -n {namespace} logs {pod} -c kuma-sidecar; check also that \
                 the replicas of the control plane are ready"
            ),
        ));
    }
    if let Some(accepted) = is_false(CONFIGURATION_ACCEPTED) {
        findings.push(Finding::new(
            "ConfigurationRejected",
            format!(
                "the sidecar of {reference} rejects configuration: {}",
                reason_and_message(accepted)
            ),
            "Envoy keeps the previous configuration of these resources. Correct the object that the message refers to; if \
             there is none, report the message as a bug",
        ));
    }
    findings
}

fn connection(dataplane: &Value, sidecar: &Value) -> Line {
    let versions: Vec<String> = [("kuma-dp", "/version"), ("Envoy", "/envoyVersion")]
        .iter()
        .map(|(program, pointer)| (program, text(sidecar, pointer)))
        .filter(|(_, version)| !version.is_empty())
        .map(|(program, version)| format!("{program} {version}"))
        .collect();
    let versions = match versions.as_slice() {
        [] => String::new(),
        versions => format!(" ({})", versions.join(", ")),
    };
    let since = condition(dataplane, CONNECTED)
        .map(|condition| format!(" since {}", text(condition, "/lastTransitionTime")))
        .unwrap_or_default();
    Line::new(match condition(dataplane, CONNECTED) {
        Some(connected) if connected["status"] == "True" => {
            format!("connected to {}{since}{versions}", text(sidecar, "/controlPlane"))
        }
        Some(connected) => format!(
            "not connected{since}{versions}: {}",
            reason_and_message(connected)
        ),
        None => "no replica of the control plane has reported a connection of the sidecar".to_owned(),
    })
}

fn last_rejection(configuration: &Value) -> Option<Line> {
    let rejection = configuration
        .get("lastRejection")
        .filter(|rejection| rejection.is_object())?;
    let resources: Vec<&str> = list(rejection, "/resources")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    Some(Line::new(format!(
        "last rejection, at {}: {} {}: {}",
        text(rejection, "/time"),
        text(rejection, "/kind"),
        resources.join(", "),
        text(rejection, "/message").trim()
    )))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn dataplane(connected: &str, accepted: &str) -> Value {
        let condition = |kind: &str, status: &str| json!({"type": kind, "status": status, "reason": "R", "message": "m", "lastTransitionTime": "T"});
        json!({
            "kind": "Dataplane",
            "metadata": {"namespace": "shop", "name": "web"},
            "status": {"conditions": [condition(CONNECTED, connected), condition(CONFIGURATION_ACCEPTED, accepted)]},
        })
    }

    fn ids(dataplane: &Value, is_running: bool) -> Vec<&'static str> {
        findings(dataplane, is_running)
            .iter()
            .map(|finding| finding.id)
            .collect()
    }

    #[test]
    fn disconnected_sidecar_is_a_finding_only_while_its_pod_runs() {
        assert!(ids(&dataplane("True", "True"), true).is_empty());
        assert_eq!(ids(&dataplane("False", "True"), true), ["SidecarDisconnected"]);
        assert!(ids(&dataplane("False", "True"), false).is_empty());
    }

    #[test]
    fn rejection_names_resources_and_the_message_of_envoy() {
        let mut dataplane = dataplane("True", "False");
        dataplane["status"]["sidecar"] = json!({
            "controlPlane": "cp-0", "version": "0.1.0",
            "configuration": {"sent": "7", "lastRejection": {
                "time": "T", "kind": "listener", "resources": ["inbound:1"], "message": "bad address",
            }},
        });
        assert_eq!(ids(&dataplane, true), ["ConfigurationRejected"]);
        let texts: Vec<String> = lines(&dataplane, false)
            .into_iter()
            .map(|line| line.text)
            .collect();
        assert_eq!(texts[0], "connected to cp-0 since T (kuma-dp 0.1.0)");
        assert!(texts[1].starts_with("version of the configuration: 7 sent, none acknowledged"));
        assert_eq!(texts[3], "last rejection, at T: listener inbound:1: bad address");
    }
}
