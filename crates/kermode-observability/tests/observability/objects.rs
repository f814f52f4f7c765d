//! The objects that are printed with and without the Prometheus Operator.

use std::collections::BTreeMap;

use kermode_observability::Observability;
use serde_json::{Value, json};

use crate::promtool;

fn objects(has_operator: bool, runbooks_url: Option<&str>) -> Vec<Value> {
    let observability = Observability {
        namespace: "mesh".to_owned(),
        has_operator,
        labels: BTreeMap::from([("release".to_owned(), "monitoring".to_owned())]),
        runbooks_url: runbooks_url.map(str::to_owned),
    };
    observability.objects().unwrap()
}

fn find<'o>(objects: &'o [Value], kind: &str, name: &str) -> &'o Value {
    let mut objects = objects.iter();
    objects
        .find(|object| object["kind"] == kind && object["metadata"]["name"] == name)
        .unwrap_or_else(|| panic!("no {kind} {name}"))
}

fn file(objects: &[Value], name: &str, file: &str) -> String {
    let config_map = find(objects, "ConfigMap", name);
    config_map["data"][file].as_str().unwrap().to_owned()
}

#[test]
fn operator_gets_rules_and_monitors_with_its_labels() {
    let objects = objects(true, None);
    for (kind, name) in [
        ("PrometheusRule", "kermode"),
        ("ServiceMonitor", "kuma-control-plane"),
        ("PodMonitor", "kuma-sidecars"),
    ] {
        let object = find(&objects, kind, name);
        assert_eq!(object["apiVersion"], "monitoring.coreos.com/v1");
        assert_eq!(object["metadata"]["namespace"], "mesh");
        assert_eq!(object["metadata"]["labels"]["release"], "monitoring");
    }
}

/// Returns the scrape configuration of a job.
fn scrape_config(job: &str) -> Value {
    let scrape = file(
        &objects(false, None),
        "kermode-prometheus-scrape",
        "kermode.scrape.yaml",
    );
    let scrape: Value = serde_saphyr::from_str(&scrape).unwrap();
    let mut configs = scrape["scrape_configs"].as_array().unwrap().iter();
    let config = configs.find(|config| config["job_name"] == job);
    config.unwrap_or_else(|| panic!("no job {job}")).clone()
}

/// Returns the labels of the targets that Prometheus scrapes if Kubernetes has a container with these labels. Debian's
/// Prometheus has no discovery of Kubernetes, so the labels are given to it.
fn scraped(job: &str, container: &Value) -> Vec<Value> {
    let mut config = scrape_config(job);
    let fields = config.as_object_mut().unwrap();
    assert!(fields.remove("kubernetes_sd_configs").is_some());
    let target = json!({"targets": ["discovered:1"], "labels": container});
    fields.insert("static_configs".to_owned(), json!([target]));
    let folder = tempfile::tempdir().unwrap();
    let file = json!({"scrape_configs": [config]});
    std::fs::write(folder.path().join("prometheus.yaml"), file.to_string()).unwrap();
    let command = [
        "check",
        "service-discovery",
        "--timeout=1s",
        "prometheus.yaml",
        job,
    ];
    let found: Value = serde_json::from_str(&promtool::run(folder.path(), &command)).unwrap();
    let targets = found
        .as_array()
        .unwrap()
        .iter()
        .map(|target| target["labels"].clone());
    targets
        .filter(|labels| labels.as_object().is_some_and(|labels| !labels.is_empty()))
        .collect()
}

/// Labels of the sidecar's container in Kubernetes' discovery.
fn sidecar(more: &[(&str, &str)]) -> Value {
    let mut labels = json!({
        "__meta_kubernetes_namespace": "shop",
        "__meta_kubernetes_pod_name": "cart-1",
        "__meta_kubernetes_pod_ip": "10.0.0.1",
        "__meta_kubernetes_pod_phase": "Running",
        "__meta_kubernetes_pod_container_name": "kuma-sidecar",
        "__meta_kubernetes_pod_annotation_kuma_io_mesh": "default",
    });
    for (name, value) in more {
        labels[format!("__meta_kubernetes_pod_{name}")] = (*value).into();
    }
    labels
}

#[test]
fn sidecars_are_scraped_at_the_port_and_path_of_their_annotations() {
    const PORT: &str = "annotation_prometheus_metrics_kuma_io_port";
    const PATH: &str = "annotation_prometheus_metrics_kuma_io_path";
    for (annotations, address, path) in [
        (&[(PORT, "1234")][..], "10.0.0.1:1234", "/metrics"),
        (&[(PATH, "/stats")], "10.0.0.1:5670", "/stats"),
        (&[(PORT, "1234"), (PATH, "stats")], "10.0.0.1:1234", "/stats"),
        (&[(PORT, "1234"), ("ip", "fd00::1")], "[fd00::1]:1234", "/metrics"),
        (&[(PATH, "/stats"), ("ip", "fd00::1")], "[fd00::1]:5670", "/stats"),
    ] {
        let found = scraped("kuma-sidecars", &sidecar(annotations));
        assert_eq!(found.len(), 1, "{annotations:?}: {found:?}");
        let labels = &found[0];
        assert_eq!(labels["__address__"], address, "{annotations:?}");
        assert_eq!(labels["__metrics_path__"], path, "{annotations:?}");
        for (label, value) in [("namespace", "shop"), ("pod", "cart-1"), ("mesh", "default")] {
            assert_eq!(labels[label], value);
        }
    }
}

#[test]
fn other_containers_and_sidecars_without_annotation_are_not_scraped() {
    const PORT: (&str, &str) = ("annotation_prometheus_metrics_kuma_io_port", "1234");
    for labels in [
        &[][..],
        &[PORT, ("container_name", "cart")],
        &[PORT, ("phase", "Succeeded")],
    ] {
        let found = scraped("kuma-sidecars", &sidecar(labels));
        assert!(found.is_empty(), "{labels:?}: {found:?}");
    }
}

#[test]
fn replicas_of_the_control_plane_are_scraped_at_their_diagnostics_port() {
    let container = |port: &str| {
        json!({
            "__meta_kubernetes_namespace": "mesh",
            "__meta_kubernetes_pod_name": "cp-1",
            "__meta_kubernetes_pod_label_app": "kuma-control-plane",
            "__meta_kubernetes_pod_container_port_name": port,
        })
    };
    assert_eq!(
        scraped("kuma-control-plane", &container("dp-server")),
        [] as [Value; 0]
    );
    let found = scraped("kuma-control-plane", &container("diagnostics"));
    assert_eq!(found[0]["pod"], "cp-1");
    let namespaces = &scrape_config("kuma-control-plane")["kubernetes_sd_configs"][0]["namespaces"];
    assert_eq!(namespaces["names"], json!(["mesh"]));
}

#[test]
fn monitors_and_scrape_configurations_find_sidecars_in_the_same_way() {
    let with_operator = objects(true, None);
    let monitor = &find(&with_operator, "PodMonitor", "kuma-sidecars")["spec"]["podMetricsEndpoints"][0];
    let of_monitor = monitor["relabelings"].to_string();
    let of_monitor = of_monitor
        .replace("sourceLabels", "source_labels")
        .replace("targetLabel", "target_label");
    let of_monitor: Value = serde_json::from_str(&of_monitor).unwrap();
    assert_eq!(of_monitor, scrape_config("kuma-sidecars")["relabel_configs"]);
}

#[test]
fn runbook_of_an_alert_is_its_section_of_the_given_document() {
    let objects = objects(true, Some("https://runbooks.example/kermode"));
    let rules = &find(&objects, "PrometheusRule", "kermode")["spec"];
    let alert = &rules["groups"][0]["rules"][0];
    assert_eq!(
        alert["annotations"]["runbook_url"],
        "https://runbooks.example/kermode#kermodecontrolplanedown"
    );
}

#[test]
fn dashboards_are_labelled_for_grafana() {
    let objects = objects(true, None);
    let dashboard = find(&objects, "ConfigMap", "kermode-mesh-dashboard");
    assert_eq!(dashboard["metadata"]["labels"]["grafana_dashboard"], "1");
    let content = dashboard["data"]["kermode-mesh.json"].as_str().unwrap();
    let content: Value = serde_json::from_str(content).unwrap();
    assert_eq!(content["uid"], "kermode-mesh");
}
