//! Rules and dashboards in a real Prometheus, which scrapes the control plane and sidecars outside of the mesh.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kermode_model::percent_encode;
use kermode_observability::{DASHBOARDS, GRAPH_WINDOW, RULES, scrape_configs};
use kermode_reference::metrics::{ExportedSeries, TARGET_LABELS};
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams};
use serde_json::{Value, json};

use crate::fixture::{APP_NAMESPACE, Fixture, OUTSIDE_NAMESPACE, SYSTEM_NAMESPACE};
use crate::harness::runner::Note;
use crate::harness::wait::{done_if, wait_for};
use crate::pods::{SIDECAR, container_names, create_until_ready};
use kermode_harness::kubectl::PortForward;

/// Name of Prometheus' Pod and ConfigMap.
const NAME: &str = "observer";
const PORT: u16 = 9090;
/// Annotation that asks a sidecar for its endpoint.
const ANNOTATION: &str = "prometheus.metrics.kuma.io/port=5670";
/// Window of rates. Prometheus scrapes every second.
const WINDOW: &str = "15s";
/// Time limit of each condition.
const TIMEOUT: Duration = Duration::from_mins(2);

/// Series, or labels of them, that appear only after an event that this test does not cause, such as a denied request. An
/// expression with one of them may have no result.
const AFTER_AN_EVENT: [&str; 17] = [
    "envoy_cluster_manager_cds_update_rejected",
    "envoy_cluster_outlier_detection_ejections_active",
    "envoy_cluster_upstream_cx_connect_fail",
    "envoy_cluster_upstream_rq_retry",
    "envoy_http_rbac_denied",
    "envoy_listener_manager_lds_update_rejected",
    "envoy_tcp_downstream_cx_no_route",
    "kuma_cp_certificate_refusals_total",
    "kuma_cp_closed_port_reports_total",
    "kuma_cp_mesh_ca_rotations_total",
    "kuma_cp_name_lookups_total",
    "kuma_cp_network_attachment_writes_total",
    "kuma_cp_roots_streams_refused_total",
    "kuma_dp_dns_control_plane_calls_total",
    "kuma_dp_dns_name_server_failures_total",
    "kuma_dp_dns_rejected_total",
    "outcome=\"refused\"",
];

/// Lets Prometheus scrape the control plane and the sidecars of the application with the product's scrape configuration,
/// and evaluates the expressions of all dashboards and rules.
pub(super) async fn prometheus_has_series_for_every_expression_and_loads_the_rules(
    fixture: &Fixture,
) -> Result<Note> {
    fixture.ensure_application().await?;
    let kubectl = &fixture.cluster.kubectl;
    let namespace = format!("--namespace={APP_NAMESPACE}");
    kubectl
        .run(&["annotate", "pods", "--all", &namespace, ANNOTATION, "--overwrite"])
        .await?;
    let targets = start_prometheus(fixture).await?;
    let prometheus = kubectl
        .port_forward(OUTSIDE_NAMESPACE, &format!("pod/{NAME}"), PORT)
        .await?;
    let prometheus = Prometheus(prometheus);
    // Prometheus writes values as text.
    let expected = targets.to_string();
    wait_for("a scrape of every target", TIMEOUT, async || {
        let up = prometheus.query("count(up == 1)").await?;
        let is_complete = up.len() == 1 && up[0]["value"][1].as_str() == Some(&expected);
        Ok(done_if(is_complete, (), || {
            format!("{up:?} instead of {targets}")
        }))
    })
    .await?;
    check_rules(&prometheus).await?;
    let expressions = wait_for("a result of every expression", TIMEOUT, async || {
        let (count, empty) = empty_expressions(&prometheus).await?;
        Ok(done_if(empty.is_empty(), count, || empty.join("\n")))
    })
    .await?;
    let series = check_exported_series(fixture, &prometheus).await?;
    fixture
        .pods(OUTSIDE_NAMESPACE)
        .delete(NAME, &DeleteParams::default())
        .await?;
    kubectl
        .run(&[
            "annotate",
            "pods",
            "--all",
            &namespace,
            "prometheus.metrics.kuma.io/port-",
        ])
        .await?;
    Ok(format!(
        "{expressions} expressions; {series} series of {targets} targets"
    ))
}

/// Starts Prometheus. Returns the number of its targets.
async fn start_prometheus(fixture: &Fixture) -> Result<usize> {
    let mut targets = 0;
    let mut configs = scrape_configs(SYSTEM_NAMESPACE);
    for config in configs.as_array_mut().context("no scrape configuration")? {
        let namespace = if config["job_name"] == "kuma-sidecars" {
            APP_NAMESPACE
        } else {
            SYSTEM_NAMESPACE
        };
        let pods = fixture.pods(namespace).list(&ListParams::default()).await?;
        let discovered: Vec<Value> = pods.iter().flat_map(discovered).collect();
        targets += pods.iter().filter(|pod| is_scraped(pod)).count();
        let fields = config.as_object_mut().context("no scrape configuration")?;
        // Debian's Prometheus has no discovery of Kubernetes, so the test gives it the labels that the discovery has.
        fields.remove("kubernetes_sd_configs").context("no discovery")?;
        fields.insert("static_configs".to_owned(), discovered.into());
    }
    let config = json!({
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": ["kermode.rules.yaml"],
        "scrape_configs": configs,
    });
    let config_map = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": NAME, "namespace": OUTSIDE_NAMESPACE},
        "data": {"prometheus.yml": config.to_string(), "kermode.rules.yaml": RULES},
    });
    fixture.cluster.kubectl.apply(&config_map.to_string()).await?;
    let references = fixture.cluster.load_application_images(&["prometheus"]).await?;
    let image = references.get("prometheus").context("no image of Prometheus")?;
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": NAME, "namespace": OUTSIDE_NAMESPACE},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "prometheus",
                "image": image,
                "command": ["prometheus", "--config.file=/etc/observer/prometheus.yml", "--storage.tsdb.path=/data"],
                "readinessProbe": {"httpGet": {"path": "/-/ready", "port": PORT}, "periodSeconds": 1},
                "volumeMounts": [
                    {"name": "configuration", "mountPath": "/etc/observer"},
                    {"name": "data", "mountPath": "/data"},
                ],
            }],
            "volumes": [
                {"name": "configuration", "configMap": {"name": NAME}},
                {"name": "data", "emptyDir": {}},
            ],
        },
    }))?;
    create_until_ready(fixture, &pod, TIMEOUT).await?;
    Ok(targets)
}

/// Returns whether a Pod has a sidecar or is a replica of the control plane.
fn is_scraped(pod: &Pod) -> bool {
    let (containers, init_containers) = container_names(pod);
    let mut names = containers.into_iter().chain(init_containers);
    names.any(|name| [SIDECAR, "control-plane"].contains(&name))
}

/// Returns the targets of a Pod in Prometheus' discovery of Kubernetes, before relabeling: one for each port of each
/// container, or one for a container without ports.
fn discovered(pod: &Pod) -> Vec<Value> {
    let status = pod.status.clone().unwrap_or_default();
    let ip = status.pod_ip.unwrap_or_default();
    let mut labels = BTreeMap::from([
        (
            "__meta_kubernetes_namespace".to_owned(),
            pod.namespace().unwrap_or_default(),
        ),
        ("__meta_kubernetes_pod_name".to_owned(), pod.name_any()),
        ("__meta_kubernetes_pod_ip".to_owned(), ip.clone()),
        (
            "__meta_kubernetes_pod_phase".to_owned(),
            status.phase.unwrap_or_default(),
        ),
    ]);
    let sanitized = |key: &str| key.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
    for (key, value) in pod.labels() {
        labels.insert(
            format!("__meta_kubernetes_pod_label_{}", sanitized(key)),
            value.clone(),
        );
    }
    for (key, value) in pod.annotations() {
        labels.insert(
            format!("__meta_kubernetes_pod_annotation_{}", sanitized(key)),
            value.clone(),
        );
    }
    let spec = pod.spec.clone().unwrap_or_default();
    let containers = spec
        .containers
        .into_iter()
        .chain(spec.init_containers.into_iter().flatten());
    let mut targets = Vec::new();
    for container in containers {
        let mut labels = labels.clone();
        labels.insert("__meta_kubernetes_pod_container_name".to_owned(), container.name);
        let ports = container.ports.unwrap_or_default();
        if ports.is_empty() {
            targets.push(json!({"targets": [ip], "labels": labels}));
        }
        for port in ports {
            let mut labels = labels.clone();
            labels.insert(
                "__meta_kubernetes_pod_container_port_name".to_owned(),
                port.name.unwrap_or_default(),
            );
            let address = format!("{ip}:{}", port.container_port);
            targets.push(json!({"targets": [address], "labels": labels}));
        }
    }
    targets
}

/// Checks that Prometheus evaluates every rule.
async fn check_rules(prometheus: &Prometheus) -> Result<()> {
    let expected = RULES.matches("- alert: ").count();
    wait_for("an evaluation of every rule", TIMEOUT, async || {
        let groups = prometheus.get("/api/v1/rules").await?;
        let groups = groups["groups"].as_array().cloned().unwrap_or_default();
        let rules = groups
            .iter()
            .flat_map(|group| group["rules"].as_array().into_iter().flatten());
        let evaluated = rules.filter(|rule| rule["health"] == "ok").count();
        Ok(done_if(evaluated == expected, (), || {
            format!("{evaluated} of {expected}: {groups:?}")
        }))
    })
    .await
}

/// Returns the number of expressions, and those without a result that should have one.
async fn empty_expressions(prometheus: &Prometheus) -> Result<(usize, Vec<String>)> {
    let mut count = 0;
    let mut empty = Vec::new();
    for dashboard in DASHBOARDS {
        for target in dashboard.targets() {
            let mut expression = target.expr.replace(GRAPH_WINDOW, WINDOW);
            for variable in dashboard.variables {
                expression = expression.replace(&format!("${}", variable.name), ".*");
            }
            count += 1;
            let may_be_empty = AFTER_AN_EVENT.iter().any(|series| expression.contains(series));
            if !may_be_empty && prometheus.query(&expression).await?.is_empty() {
                empty.push(format!("{}: {expression}", dashboard.title));
            }
        }
    }
    Ok((count, empty))
}

/// Checks that the scraped series have exactly the documented labels, and that all series of Kermode are documented.
/// Returns the number of series.
async fn check_exported_series(fixture: &Fixture, prometheus: &Prometheus) -> Result<usize> {
    let exported = ExportedSeries::read(&fixture.config.checkout.repository)?;
    let found = prometheus
        .get("/api/v1/series?match[]=%7B__name__%3D~%22(kuma%7Cenvoy)_.%2B%22%7D")
        .await?;
    let found = found.as_array().cloned().unwrap_or_default();
    let mut problems = BTreeSet::new();
    for series in &found {
        let labels = series.as_object().context("a series without labels")?;
        let name = labels["__name__"].as_str().unwrap_or_default();
        let own = own_labels(labels.keys());
        match exported.labels(name).map(own_labels) {
            Some(documented) if documented != own => {
                problems.insert(format!("{name} has labels {own:?} instead of {documented:?}"));
            }
            None if name.starts_with("kuma_") => _ = problems.insert(format!("{name} is not documented")),
            _ => {}
        }
    }
    ensure!(problems.is_empty(), "{problems:#?}");
    Ok(found.len())
}

/// Returns the labels that Prometheus does not set itself. The label `mesh` of a series of the control plane is left out,
/// too, because series of sidecars have it from their target.
fn own_labels<'l>(labels: impl IntoIterator<Item = &'l String>) -> BTreeSet<&'l str> {
    let labels = labels.into_iter().map(String::as_str);
    let is_own =
        |label: &&str| !TARGET_LABELS.contains(label) && !["__name__", "instance", "job"].contains(label);
    labels.filter(is_own).collect()
}

/// Prometheus' HTTP API.
struct Prometheus(PortForward);

impl Prometheus {
    /// Returns the data of a response.
    async fn get(&self, path: &str) -> Result<Value> {
        let response: Value = serde_json::from_str(&self.0.get(path).await?)?;
        ensure!(response["status"] == "success", "{path}: {response}");
        Ok(response["data"].clone())
    }

    /// Returns the current series of an expression.
    async fn query(&self, expression: &str) -> Result<Vec<Value>> {
        let path = format!("/api/v1/query?query={}", percent_encode(expression));
        let data = self.get(&path).await?;
        Ok(data["result"].as_array().cloned().unwrap_or_default())
    }
}
