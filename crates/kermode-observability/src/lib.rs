//! Objects with which Prometheus and Grafana observe an installation: alert rules, scrape configuration and dashboards
//! (`docs/observability.md`).
//!
//! `kumactl install observability` prints the objects. With the Prometheus Operator, they are a PrometheusRule and
//! monitors; without it, ConfigMaps with a file of rules and a file of scrape configurations that find the same targets.
//! The dashboards are ConfigMaps in both cases.
//!
//! Every expression uses only metrics of `docs/reference/metrics.md`; a test of this crate checks it.

mod dashboards;
mod monitors;
mod rules;
mod scrape;

use std::collections::BTreeMap;

use kermode_manifests::{ManifestError, yaml};
use serde_json::{Value, json};

pub use dashboards::{DASHBOARDS, Dashboard, GRAPH_WINDOW, Panel, Row, Target, Unit, Variable};
pub use rules::RULES;
pub use scrape::configs as scrape_configs;

/// Settings of the objects.
#[derive(Clone, Debug)]
pub struct Observability {
    /// Namespace of the control plane, in which the objects are created.
    pub namespace: String,
    /// Whether the objects are for the Prometheus Operator.
    pub has_operator: bool,
    /// Additional labels of the rules and monitors, by which an operator selects them.
    pub labels: BTreeMap<String, String>,
    /// URL of the runbooks, without a fragment. Each alert then has the annotation `runbook_url`.
    pub runbooks_url: Option<String>,
}

/// Objects that cannot be rendered.
#[derive(Debug, thiserror::Error)]
pub enum ObservabilityError {
    /// The rules cannot be read. They are part of this crate, so this error is a bug.
    #[error("the alert rules cannot be read: {0}")]
    Rules(String),
    /// A file in a ConfigMap cannot be written as YAML.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

// === impl Observability ===

impl Observability {
    /// Renders all objects.
    ///
    /// # Errors
    /// If the rules or a file in a ConfigMap cannot be rendered.
    pub fn objects(&self) -> Result<Vec<Value>, ObservabilityError> {
        let rules = rules::with_runbooks(self.runbooks_url.as_deref())?;
        let mut objects = if self.has_operator {
            vec![
                self.object("monitoring.coreos.com/v1", "PrometheusRule", "kermode", rules),
                self.object(
                    "monitoring.coreos.com/v1",
                    "ServiceMonitor",
                    "kuma-control-plane",
                    monitors::control_plane(),
                ),
                self.object(
                    "monitoring.coreos.com/v1",
                    "PodMonitor",
                    "kuma-sidecars",
                    monitors::sidecars(),
                ),
            ]
        } else {
            let scrape = json!({"scrape_configs": scrape::configs(&self.namespace)});
            vec![
                self.config_map(
                    "kermode-prometheus-rules",
                    &json!({}),
                    "kermode.rules.yaml",
                    yaml::document(&rules)?,
                ),
                self.config_map(
                    "kermode-prometheus-scrape",
                    &json!({}),
                    "kermode.scrape.yaml",
                    yaml::document(&scrape)?,
                ),
            ]
        };
        for dashboard in DASHBOARDS {
            let uid = dashboard.uid;
            objects.push(self.config_map(
                &format!("{uid}-dashboard"),
                // Grafana's chart loads the ConfigMaps with this label.
                &json!({"grafana_dashboard": "1"}),
                &format!("{uid}.json"),
                format!("{:#}\n", dashboard.json()),
            ));
        }
        Ok(objects)
    }

    /// An object of the operator. It has the labels by which the operator selects it.
    fn object(&self, api_version: &str, kind: &str, name: &str, spec: Value) -> Value {
        let mut labels = labels();
        for (key, value) in &self.labels {
            labels[key] = value.as_str().into();
        }
        json!({
            "apiVersion": api_version,
            "kind": kind,
            "metadata": {"name": name, "namespace": self.namespace, "labels": labels},
            "spec": spec,
        })
    }

    fn config_map(&self, name: &str, more_labels: &Value, file: &str, content: String) -> Value {
        let mut labels = labels();
        for (key, value) in more_labels.as_object().into_iter().flatten() {
            labels[key] = value.clone();
        }
        json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": name, "namespace": self.namespace, "labels": labels},
            "data": {file: content},
        })
    }
}

fn labels() -> Value {
    json!({"app.kubernetes.io/name": "kuma", "app.kubernetes.io/component": "observability"})
}
