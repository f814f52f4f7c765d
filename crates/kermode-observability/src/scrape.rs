//! Scrape configurations of Prometheus: how it finds the replicas of the control plane and the sidecars.

use kermode_crds::annotation;
use kermode_model::Metrics;
use serde_json::{Value, json};

/// Value of the label `app` of the control plane's Pods and Service.
pub(crate) const CONTROL_PLANE: &str = "kuma-control-plane";
/// Name of the port with metrics in the control plane's Pods and Service.
pub(crate) const DIAGNOSTICS_PORT: &str = "diagnostics";
/// Name of the sidecar's container.
const SIDECAR: &str = "kuma-sidecar";

/// Returns the scrape configurations for a control plane in `namespace` and for the sidecars of all namespaces.
pub fn configs(namespace: &str) -> Value {
    let mut control_plane = vec![
        keep("__meta_kubernetes_pod_label_app", CONTROL_PLANE),
        keep("__meta_kubernetes_pod_container_port_name", DIAGNOSTICS_PORT),
    ];
    control_plane.extend(pod_labels());
    json!([
        {
            "job_name": CONTROL_PLANE,
            "kubernetes_sd_configs": [{"role": "pod", "namespaces": {"names": [namespace]}}],
            "relabel_configs": control_plane,
        },
        {
            "job_name": "kuma-sidecars",
            "kubernetes_sd_configs": [{"role": "pod"}],
            "relabel_configs": sidecar_relabelings(),
        },
    ])
}

/// Relabelings that keep the sidecars whose Pods ask for the metrics endpoint, take port and path from the annotations, and
/// set the labels `namespace`, `pod` and `mesh`.
pub(crate) fn sidecar_relabelings() -> Vec<Value> {
    let port = meta_annotation(annotation::METRICS_PORT);
    let path = meta_annotation(annotation::METRICS_PATH);
    let mesh = meta_annotation(annotation::MESH);
    let mut relabelings = vec![
        keep("__meta_kubernetes_pod_container_name", SIDECAR),
        keep("__meta_kubernetes_pod_phase", "Running"),
        // Either annotation asks for the endpoint.
        json!({"action": "keep", "source_labels": [port, path], "regex": ".+;.*|.*;.+"}),
        // Without the port's annotation, the sidecar uses its default.
        replace(
            &["__meta_kubernetes_pod_ip"],
            "(.+)",
            &format!("$1:{}", Metrics::DEFAULT_PORT),
            "__address__",
        ),
        replace(
            &["__meta_kubernetes_pod_ip"],
            "(.*:.*)",
            &format!("[$1]:{}", Metrics::DEFAULT_PORT),
            "__address__",
        ),
        replace(
            &["__meta_kubernetes_pod_ip", &port],
            "([^:;]+);(.+)",
            "$1:$2",
            "__address__",
        ),
        replace(
            &["__meta_kubernetes_pod_ip", &port],
            "(.*:.*);(.+)",
            "[$1]:$2",
            "__address__",
        ),
        replace(&[&path], "/?(.+)", "/$1", "__metrics_path__"),
        replace(&[&mesh], "(.*)", "$1", "mesh"),
        replace(&["mesh"], "", kermode_model::DEFAULT_MESH, "mesh"),
    ];
    relabelings.extend(pod_labels());
    relabelings
}

/// Relabelings that set the labels `namespace` and `pod`, which the operator sets, too.
fn pod_labels() -> [Value; 2] {
    [
        replace(&["__meta_kubernetes_namespace"], "(.*)", "$1", "namespace"),
        replace(&["__meta_kubernetes_pod_name"], "(.*)", "$1", "pod"),
    ]
}

fn keep(label: &str, regex: &str) -> Value {
    json!({"action": "keep", "source_labels": [label], "regex": regex})
}

fn replace(sources: &[&str], regex: &str, replacement: &str, target: &str) -> Value {
    json!({
        "action": "replace",
        "source_labels": sources,
        "regex": regex,
        "replacement": replacement,
        "target_label": target,
    })
}

/// Returns the label in which Prometheus has an annotation of a Pod. Characters other than letters, digits and `_` become
/// `_`.
fn meta_annotation(key: &str) -> String {
    let key: String = key
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
        .collect();
    format!("__meta_kubernetes_pod_annotation_{key}")
}
