//! Dataplanes, MeshTrafficPermissions, ContainerPatches and Secrets.

use std::collections::BTreeSet;

use kermode_crds::validate;
use kermode_inject::validate_container_patch;
use kermode_manifests::ClusterObjects;
use serde_json::Value;

use crate::report::Finding;
use crate::rule;
use crate::{KUMA_NAMESPACE, Settings};

/// Types of Kuma's Secrets.
const SECRET_TYPES: [&str; 2] = ["system.kuma.io/secret", "system.kuma.io/global-secret"];
/// Parts of the names of Secrets with a builtin CA, between the mesh and the backend.
const CA_CERTIFICATE: &str = ".ca-builtin-cert-";
const CA_KEY: &str = ".ca-builtin-key-";
/// The same of a Secret with a later CA, which only Kermode has.
const CA_ROTATION: &str = ".ca-builtin-rotation-";
/// Entry that only Kermode's Secret with a key has.
const CERTIFICATE_ENTRY: &str = "certificate";

/// Returns the findings about a Dataplane.
pub(crate) fn dataplane(object: &Value, cluster: &ClusterObjects) -> Vec<Finding> {
    let owners = object["metadata"]["ownerReferences"].as_array();
    if owners.into_iter().flatten().any(|owner| owner["kind"] == "Pod") {
        let text = "the control plane writes the Dataplane of each Pod again";
        return vec![Finding::new(&rule::DATAPLANE_OF_POD, text)];
    }
    // Without a Mesh among the objects, the Mesh may exist in the cluster.
    let exists = |mesh: &str| !cluster.contains_meshes() || cluster.mesh_exists(mesh);
    let mut findings = refusals(&rule::DATAPLANE_REFUSED, validate::dataplane(object, exists));
    let text = "no Pod owns the Dataplane, so it is stored and no proxy uses it; Kermode has no proxies outside of Pods";
    let remedy =
        "for a workload outside of the cluster, write a Service without a selector and its EndpointSlices";
    findings.push(Finding::new(&rule::DATAPLANE_WITHOUT_POD, text).with_remedy(remedy));
    findings
}

/// Returns the findings about a MeshTrafficPermission of `namespace`.
pub(crate) fn traffic_permission(object: &Value, namespace: &str, system_namespace: &str) -> Vec<Finding> {
    let problems = validate::traffic_permission(object, namespace, system_namespace);
    let mut findings = refusals(&rule::PERMISSION_REFUSED, problems);
    let spec = &object["spec"];
    let from = spec["from"].as_array().into_iter().flatten();
    for reference in std::iter::once(&spec["targetRef"]).chain(from.map(|from| &from["targetRef"])) {
        findings.extend(names_no_service(reference));
    }
    findings.extend(unknown_permission_fields(spec));
    or_unchanged(findings, &rule::PERMISSION_UNCHANGED)
}

/// Returns a finding for each field of the spec, of its references and of its rules that Kermode does not know.
fn unknown_permission_fields(spec: &Value) -> Vec<Finding> {
    const REFERENCE: &[&str] = &["kind", "name", "tags"];
    let mut parts = vec![
        ("spec".to_owned(), spec, &["targetRef", "from"][..]),
        ("spec.targetRef".to_owned(), &spec["targetRef"], REFERENCE),
    ];
    for (index, from) in spec["from"].as_array().into_iter().flatten().enumerate() {
        let path = format!("spec.from[{index}]");
        parts.push((format!("{path}.targetRef"), &from["targetRef"], REFERENCE));
        parts.push((path, from, &["targetRef", "default"]));
    }
    let mut findings = Vec::new();
    for (path, part, known) in parts {
        let fields = part.as_object().into_iter().flatten();
        for (field, _) in fields.filter(|(field, _)| !known.contains(&field.as_str())) {
            let text = format!(
                "{path}.{field} has no effect, so the permission can apply more widely than with Kuma"
            );
            let remedy = "remove the field, and select servers and clients by kind, name and tags";
            findings.push(Finding::new(&rule::PERMISSION_FIELD, text).with_remedy(remedy));
        }
    }
    findings
}

/// Returns the finding about a reference by the name of a MeshService object, in place of a value of `kuma.io/service`.
fn names_no_service(reference: &Value) -> Option<Finding> {
    let name = reference["name"].as_str()?;
    let names_service = ["MeshService", "MeshServiceSubset"]
        .iter()
        .any(|kind| reference["kind"] == *kind);
    (names_service && !name.ends_with("_svc") && !name.contains("_svc_")).then(|| {
        let text =
            format!("no Dataplane has the service {name}: services are named by the tag kuma.io/service");
        let remedy = "write the name as <Service>_<namespace>_svc_<port>";
        Finding::new(&rule::PERMISSION_SERVICE, text).with_remedy(remedy)
    })
}

/// Returns the findings about a ContainerPatch of `namespace`.
pub(crate) fn container_patch(object: &Value, namespace: &str, system_namespace: &str) -> Vec<Finding> {
    let mut object = object.clone();
    object["metadata"]["namespace"] = namespace.into();
    let problems = validate_container_patch(&object, system_namespace)
        .err()
        .unwrap_or_default();
    let findings = refusals(&rule::PATCH_REFUSED, problems);
    or_unchanged(findings, &rule::PATCH_UNCHANGED)
}

/// Returns namespace and name of the Secrets with CAs of Kermode: those with a key have an entry that those of Kuma lack, and each
/// has a Secret with the certificate beside it.
pub(crate) fn own_authorities(objects: &[Value], default_namespace: &str) -> BTreeSet<(String, String)> {
    let of_kermode = objects
        .iter()
        .filter(|object| object["kind"] == "Secret" && object["data"].get(CERTIFICATE_ENTRY).is_some());
    let names = of_kermode.filter_map(|object| {
        let metadata = &object["metadata"];
        let namespace = metadata["namespace"].as_str().unwrap_or(default_namespace);
        Some((namespace, metadata["name"].as_str()?))
    });
    names
        .flat_map(|(namespace, name)| {
            [name.to_owned(), name.replacen(CA_KEY, CA_CERTIFICATE, 1)]
                .map(|name| (namespace.to_owned(), name))
        })
        .collect()
}

/// Returns the findings about a Secret; `None` for a Secret of another type than those of Kuma.
pub(crate) fn secret(
    object: &Value,
    own_authorities: &BTreeSet<(String, String)>,
    settings: &Settings,
) -> Option<Vec<Finding>> {
    let kind = object["type"].as_str()?;
    if !SECRET_TYPES.contains(&kind) {
        return None;
    }
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let namespace = object["metadata"]["namespace"]
        .as_str()
        .unwrap_or(&settings.default_namespace);
    let system_namespace = settings.config.system_namespace();
    let is_own = own_authorities.contains(&(namespace.to_owned(), name.to_owned()));
    // Without the Secret with the key, only the namespace tells that a later CA is one of Kermode.
    let may_have_rotation =
        namespace == system_namespace || own_authorities.iter().any(|(own, _)| own == namespace);
    if is_own || (may_have_rotation && name.contains(CA_ROTATION)) {
        let text = "a CA of Kermode; do not delete the Secret";
        return Some(vec![Finding::new(&rule::SECRET_OF_KERMODE, text)]);
    }
    let is_ca = name.contains(CA_CERTIFICATE) || name.contains(CA_KEY);
    Some(vec![if is_ca && namespace == system_namespace {
        let text = "Kermode keeps its own CA under this name and cannot read the CA of Kuma, so the mesh has no \
                    certificates while the Secret exists";
        let remedy = "delete the Secrets with the certificate and the key before you install Kermode; every Pod of the \
                      mesh gets a certificate of the new CA when it is injected again";
        Finding::new(&rule::SECRET_OF_CA, text).with_remedy(remedy)
    } else {
        let text = "Kermode does not read the Secret: it creates its own CAs, and proxies authenticate by the tokens of \
                    their Pods";
        Finding::new(&rule::SECRET_UNUSED, text).with_remedy("delete the Secret after the migration")
    }])
}

/// Returns a finding for each problem that the webhook would report.
fn refusals<P: ToString>(rule: &'static rule::Rule, problems: Vec<P>) -> Vec<Finding> {
    let remedy = |problem: &str| {
        if problem.contains("namespace") {
            format!(
                "change metadata.namespace, or install Kermode in the namespace of Kuma, for example with \
                 --namespace={KUMA_NAMESPACE}"
            )
        } else {
            "correct the field".to_owned()
        }
    };
    let problems = problems.iter().map(ToString::to_string);
    problems
        .map(|problem| Finding::new(rule, problem.as_str()).with_remedy(remedy(&problem)))
        .collect()
}

fn or_unchanged(mut findings: Vec<Finding>, unchanged: &'static rule::Rule) -> Vec<Finding> {
    if findings.is_empty() {
        findings.push(Finding::new(unchanged, "the same meaning as in Kuma"));
    }
    findings
}
