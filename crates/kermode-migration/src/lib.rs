//! Report for `kumactl migrate report`: which objects written for Kuma 2.x work unchanged with Kermode, which are
//! ignored, which are refused, and what to do.
//!
//! ```text
//! objects of a cluster or of files ──report──▶ Report ──▶ text, JSON, YAML
//! ```
//!
//! The crate does no IO. Where Kermode has a check, the report runs the same code: `kermode-inject` decides on Pods,
//! `kermode-crds` validates resources, `kermode-config` loads configurations.

mod configuration;
mod keys;
mod kinds;
mod mesh;
mod report;
mod resources;
mod rule;
mod workload;

use std::collections::BTreeSet;

use kermode_config::Config;
use kermode_manifests::ClusterObjects;
use kermode_model::annotation::SYSTEM_NAMESPACE;
use serde_json::Value;

pub use report::{Finding, ObjectReport, Report, Verdict};
pub use rule::{RULES, Rule};

/// Namespace of Kuma's control plane if nothing else is configured.
pub const KUMA_NAMESPACE: &str = "kuma-system";

/// Facts about the installation of Kermode that the objects are to be used with.
pub struct Settings {
    /// Configuration of the control plane, with the namespace of the control plane.
    pub config: Config,
    /// Paths of the Helm values of Kermode's chart.
    pub helm_values: Vec<&'static str>,
    /// Namespace of objects without a namespace.
    pub default_namespace: String,
}

/// Returns the namespace of the control plane among the objects: the Namespace with the label
/// `kuma.io/system-namespace: "true"`.
pub fn system_namespace(objects: &[Value]) -> Option<&str> {
    let mut namespaces = objects.iter().filter(|object| object["kind"] == "Namespace");
    let labelled =
        namespaces.find(|namespace| namespace["metadata"]["labels"][SYSTEM_NAMESPACE] == "true")?;
    labelled["metadata"]["name"].as_str()
}

/// Reports on all objects that Kuma or Kermode reads, in the order of the input. Other objects are counted. Pods and
/// workloads that another workload controls are not reported, because the template of the owner is.
pub fn report(objects: &[Value], settings: &Settings) -> Report {
    let context = Context {
        cluster: readable_objects(objects, settings.config.system_namespace()),
        own_authorities: resources::own_authorities(objects, &settings.default_namespace),
        settings,
    };
    let mut report = Report::default();
    for object in objects {
        match context.findings(object) {
            Some(findings) => report.objects.push(ObjectReport::new(object, settings, findings)),
            None => report.unrelated += 1,
        }
    }
    report
}

/// Returns the objects that injection reads. An object that cannot be decoded is left out; its own report names the
/// problem.
fn readable_objects(objects: &[Value], system_namespace: &str) -> ClusterObjects {
    let readable: Vec<Value> = objects
        .iter()
        .filter(|object| ClusterObjects::new(std::slice::from_ref(object), system_namespace).is_ok())
        .cloned()
        .collect();
    ClusterObjects::new(&readable, system_namespace).unwrap_or_default()
}

/// Facts that the checks of all objects share.
struct Context<'a> {
    settings: &'a Settings,
    cluster: ClusterObjects,
    /// Namespace and name of the Secrets with CAs of Kermode.
    own_authorities: BTreeSet<(String, String)>,
}

// === impl Context ===

impl Context<'_> {
    /// Returns the findings about an object; `None` if neither Kuma nor Kermode reads it.
    fn findings(&self, object: &Value) -> Option<Vec<Finding>> {
        let api_version = object["apiVersion"].as_str().unwrap_or_default();
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        let kind = object["kind"].as_str().unwrap_or_default();
        let findings = match (group, kind) {
            ("kuma.io", "Mesh") => mesh::findings(object),
            ("kuma.io", "Dataplane") => resources::dataplane(object, &self.cluster),
            ("kuma.io", "MeshTrafficPermission") => self.traffic_permission(object),
            ("kuma.io", "ContainerPatch") => self.container_patch(object),
            ("kuma.io", kind) => vec![kinds::finding(kind)],
            ("gateway.networking.k8s.io", "GatewayClass") => kinds::gateway_class(object)?,
            ("", "Secret") => resources::secret(object, &self.own_authorities, self.settings)?,
            ("", "ConfigMap") => configuration::config_map(object)?,
            ("", "") => configuration::helm_values(object, &self.settings.helm_values)?,
            ("", "Namespace" | "Service") => keys::findings(object, kind),
            _ => self.workload(object)?,
        };
        (!findings.is_empty()).then_some(findings)
    }

    fn traffic_permission(&self, object: &Value) -> Vec<Finding> {
        resources::traffic_permission(
            object,
            self.namespace(object),
            self.settings.config.system_namespace(),
        )
    }

    fn container_patch(&self, object: &Value) -> Vec<Finding> {
        resources::container_patch(
            object,
            self.namespace(object),
            self.settings.config.system_namespace(),
        )
    }

    /// Returns the namespace of an object.
    fn namespace<'o>(&'o self, object: &'o Value) -> &'o str {
        let namespace = object["metadata"]["namespace"].as_str();
        namespace.unwrap_or(&self.settings.default_namespace)
    }
}
