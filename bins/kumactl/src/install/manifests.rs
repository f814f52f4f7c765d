//! All objects of an installation, in the order in which they can be applied.

use anyhow::Result;
use kermode_crds::{annotation, definition};
use serde_json::{Value, json};

use super::settings::Settings;
use super::{config, rbac, webhooks, workload};
use crate::yaml;

/// Name of the control plane's Deployment, Service, ServiceAccount and access rights (BEHAVIOUR section 1).
pub(super) const NAME: &str = "kuma-control-plane";

/// The objects.
pub(super) fn all(settings: &Settings) -> Result<Vec<Value>> {
    let config = yaml::document(&config::config(settings)?)?;
    let mut objects = vec![namespace(settings)];
    objects.extend(definition::all());
    objects.push(workload::service_account(settings));
    objects.extend(rbac::all(settings));
    objects.push(workload::config_map(settings, &config));
    objects.push(workload::service(settings));
    if settings.deployment {
        objects.push(workload::deployment(settings, &config));
        objects.extend(workload::disruption_budget(settings));
    }
    objects.push(webhooks::mutating(settings));
    objects.push(webhooks::validating(settings));
    Ok(objects)
}

/// The system namespace. What runs there passes Pod Security's strictest level, so the namespace demands it.
fn namespace(settings: &Settings) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": settings.namespace,
            "labels": {
                annotation::SYSTEM_NAMESPACE: "true",
                "pod-security.kubernetes.io/enforce": "restricted",
            },
        },
    })
}

/// Labels of every object, by which an installation is found again.
pub(super) fn labels() -> Value {
    json!({"app": NAME, "app.kubernetes.io/name": "kuma", "app.kubernetes.io/instance": "kuma"})
}

/// Metadata of an object in the system namespace.
pub(super) fn namespaced(name: &str, settings: &Settings) -> Value {
    json!({"name": name, "namespace": settings.namespace, "labels": labels()})
}

/// Metadata of an object of the cluster.
pub(super) fn cluster_wide(name: &str) -> Value {
    json!({"name": name, "labels": labels()})
}
