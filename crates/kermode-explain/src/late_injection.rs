//! Why a Pod without a sidecar would get one today: compares the times of creation and of the last writes.

use kermode_crds::annotation::SIDECAR_INJECTION;
use serde_json::Value;

use crate::observed::{ObservedCluster, list, text};
use crate::webhook::Webhooks;
use kermode_k8s::controller::registration::MUTATING;

/// Returns the most likely reason, as a clause.
pub(crate) fn cause(cluster: &ObservedCluster, pod: &Value, webhooks: Option<&Webhooks>) -> String {
    let created = text(pod, "/metadata/creationTimestamp");
    if created.is_empty() {
        return "it was not created by an API server, or before injection was enabled".to_owned();
    }
    let registration = cluster.find("MutatingWebhookConfiguration", "", MUTATING);
    let registered = registration.map(|object| text(object, "/metadata/creationTimestamp"));
    if let Some(registered) = registered.filter(|registered| *registered > created) {
        return format!("it was created at {created}, before the webhooks were registered at {registered}");
    }
    let namespace = text(pod, "/metadata/namespace");
    let labelled = cluster.find("Namespace", "", namespace).and_then(time_of_request);
    if let Some(labelled) = labelled.filter(|labelled| *labelled > created) {
        return format!(
            "it was created at {created}, before {SIDECAR_INJECTION} of Namespace {namespace} was last set at {labelled}"
        );
    }
    if webhooks.is_some_and(|webhooks| webhooks.any_called() && webhooks.fails_open()) {
        return format!(
            "it was created at {created}, probably while no replica of the control plane answered, since the webhooks for it \
             have the failure policy Ignore"
        );
    }
    format!(
        "it was created at {created}, before its label, its Namespace or the control plane requested injection"
    )
}

/// Returns the time of the last write of the label or annotation that requests injection, by the writer that owns it.
/// The API server records the time for each writer, not for each field, so the time may be that of a later write.
fn time_of_request(namespace: &Value) -> Option<&str> {
    let field = format!("f:{SIDECAR_INJECTION}");
    let owns_request = |entry: &&Value| {
        ["f:labels", "f:annotations"]
            .iter()
            .any(|fields| entry["fieldsV1"]["f:metadata"][*fields].get(&field).is_some())
    };
    let entries = list(namespace, "/metadata/managedFields").iter();
    entries
        .filter(owns_request)
        .map(|entry| text(entry, "/time"))
        .max()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn cluster(registered: &str, labelled: &str) -> ObservedCluster {
        ObservedCluster {
            objects: vec![
                json!({"kind": "MutatingWebhookConfiguration",
                    "metadata": {"name": MUTATING, "creationTimestamp": registered}}),
                json!({"kind": "Namespace", "metadata": {"name": "shop", "managedFields": [
                    {"time": "2026-09-09T00:00:00Z", "fieldsV1": {"f:metadata": {"f:labels": {"f:team": {}}}}},
                    {"time": labelled, "fieldsV1": {"f:metadata": {"f:labels": {"f:kuma.io/sidecar-injection": {}}}}},
                ]}}),
            ],
            ..ObservedCluster::default()
        }
    }

    #[test]
    fn later_registration_or_later_label_is_the_cause() {
        let pod = json!({"metadata": {"namespace": "shop", "creationTimestamp": "2026-05-01T00:00:00Z"}});
        for (registered, labelled, expected) in [
            (
                "2026-06-01T00:00:00Z",
                "2026-01-01T00:00:00Z",
                "before the webhooks were registered",
            ),
            (
                "2026-01-01T00:00:00Z",
                "2026-06-01T00:00:00Z",
                "was last set at 2026-06-01",
            ),
            ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z", "before its label"),
        ] {
            let text = cause(&cluster(registered, labelled), &pod, None);
            assert!(text.contains(expected), "{text}");
        }
    }
}
