//! Monitors of the Prometheus Operator. They find the same targets as the [scrape configuration](crate::scrape).

use serde_json::{Value, json};

use crate::scrape;

/// Spec of the ServiceMonitor for the replicas of the control plane.
pub(crate) fn control_plane() -> Value {
    json!({
        "selector": {"matchLabels": {"app": scrape::CONTROL_PLANE}},
        "endpoints": [{"port": scrape::DIAGNOSTICS_PORT, "path": "/metrics"}],
    })
}

/// Spec of the PodMonitor for the sidecars of all namespaces. It names no port, because the sidecar's container declares
/// none; the relabelings take the port from the Pod's annotation.
pub(crate) fn sidecars() -> Value {
    let relabelings: Vec<Value> = scrape::sidecar_relabelings().iter().map(in_camel_case).collect();
    json!({
        "namespaceSelector": {"any": true},
        "selector": {},
        "podMetricsEndpoints": [{"relabelings": relabelings}],
    })
}

/// Converts a relabeling of Prometheus to the operator's notation.
fn in_camel_case(relabeling: &Value) -> Value {
    let fields = relabeling.as_object().into_iter().flatten();
    fields
        .map(|(key, value)| {
            let key = match key.as_str() {
                "source_labels" => "sourceLabels",
                "target_label" => "targetLabel",
                other => other,
            };
            (key.to_owned(), value.clone())
        })
        .collect()
}
