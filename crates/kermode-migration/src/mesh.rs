//! Meshes.

use kermode_crds::{Mesh, validate};
use kermode_model as model;
use serde::Deserialize;
use serde_json::Value;

use crate::report::{Finding, Verdict};
use crate::rule::{self, Rule};

/// Settings of a Mesh without effect: path in `spec`, identifier, consequence, remedy.
const IGNORED: &[(&str, &Rule, &str, &str)] = &[
    (
        "metrics",
        &rule::MESH_METRICS,
        "no sidecar of the mesh serves metrics because of it",
        "annotate Pods with prometheus.metrics.kuma.io/port",
    ),
    (
        "logging",
        &rule::MESH_LOGGING,
        "sidecars write no access logs",
        "log in the applications",
    ),
    (
        "tracing",
        &rule::MESH_TRACING,
        "sidecars send no traces",
        "trace in the applications",
    ),
    (
        "routing",
        &rule::MESH_ROUTING,
        "load balancing follows the Service (trafficDistribution, internalTrafficPolicy), and no traffic passes an egress",
        "set trafficDistribution of the Services for traffic within a zone",
    ),
    (
        "constraints",
        &rule::MESH_CONSTRAINTS,
        "every Pod that names the Mesh may join it",
        "restrict by RBAC or an admission policy who may create Pods with the label or annotation kuma.io/mesh",
    ),
    (
        "meshServices",
        &rule::MESH_FIELD,
        "services are named by the tag kuma.io/service in every mode",
        "name services by kuma.io/service in policies",
    ),
    (
        "skipCreatingInitialPolicies",
        &rule::INITIAL_PERMISSION,
        "the control plane creates MeshTrafficPermission allow-all-<mesh> once, which allows all traffic of the mesh",
        "delete allow-all-<mesh> after the Mesh is created; it is not created again",
    ),
];

/// Type of the backends that Kermode supports.
const BUILTIN: &str = "builtin";
/// Settings of a builtin backend without effect.
const IGNORED_OF_BACKEND: &[(&str, &str)] = &[
    ("conf", "the CA has an ECDSA key and is valid for ten years"),
    ("rootChain", "trusted roots are those of the CAs of the mesh"),
];

/// Returns the findings about a Mesh.
pub(crate) fn findings(object: &Value) -> Vec<Finding> {
    let mut findings: Vec<Finding> = validate::mesh(object)
        .iter()
        .map(|problem| {
            Finding::new(&rule::MESH_REFUSED, problem.to_string())
                .with_remedy("correct the field; a CA of your own cannot be used, only the type builtin")
        })
        .collect();
    let spec = &object["spec"];
    for (field, rule, consequence, remedy) in IGNORED {
        if !is_empty(&spec[*field]) {
            let text = format!("spec.{field} has no effect: {consequence}");
            findings.push(Finding::new(rule, text).with_remedy(*remedy));
        }
    }
    findings.extend(unknown_fields(spec));
    for (index, backend) in spec["mtls"]["backends"]
        .as_array()
        .into_iter()
        .flatten()
        .enumerate()
    {
        for (field, consequence) in IGNORED_OF_BACKEND {
            if backend["type"] == BUILTIN && !is_empty(&backend[*field]) {
                let text = format!("spec.mtls.backends[{index}].{field} has no effect: {consequence}");
                findings.push(Finding::new(&rule::MESH_FIELD, text));
            }
        }
    }
    if closes_ports(object) {
        let text =
            "mode STRICT closes plain text connections to ports that no Service names; Kuma lets them pass";
        let remedy = "give the port a Service, exclude it with traffic.kuma.io/exclude-inbound-ports, or set \
                      spec.networking.inbound.passthrough: true";
        findings.push(Finding::new(&rule::STRICT_COVERS_EVERY_PORT, text).with_remedy(remedy));
    }
    if !is_empty(&spec["mtls"]) {
        findings.push(Finding::new(
            &rule::REMOVED_IN_KUMA_3,
            "spec.mtls: Kermode keeps what Kuma 3 removes",
        ));
    }
    if findings.iter().all(|finding| finding.verdict == Verdict::Works) {
        findings.push(Finding::new(
            &rule::MESH_UNCHANGED,
            "all settings have the same meaning as in Kuma",
        ));
    }
    findings
}

/// Returns the findings about fields of the spec that neither Kermode nor this module knows.
fn unknown_fields(spec: &Value) -> impl Iterator<Item = Finding> {
    let fields = spec.as_object().into_iter().flatten();
    fields
        .filter(|(field, value)| {
            let is_known = ["mtls", "networking"].contains(&field.as_str());
            !is_known && !is_empty(value) && IGNORED.iter().all(|(known, ..)| known != field)
        })
        .map(|(field, _)| {
            let text = format!("spec.{field} has no effect: Kermode does not know the field");
            Finding::new(&rule::MESH_FIELD, text).with_remedy("remove the field")
        })
}

/// Whether Kermode closes ports without an inbound that Kuma leaves open.
fn closes_ports(object: &Value) -> bool {
    let mesh = Mesh::deserialize(object).ok();
    let mesh = mesh.and_then(|mesh| model::Mesh::try_from(&mesh).ok());
    mesh.is_some_and(|mesh| {
        mesh.mtls.is_some() && !mesh.passes_through_inbound() && mesh.inbound_passthrough.is_none()
    })
}

/// Whether a setting is absent or has no content.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(entries) => entries.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Bool(set) => !set,
        _ => false,
    }
}
