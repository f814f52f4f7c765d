//! Finds the Pod templates of workloads, and requests for injection in the metadata outside of the templates.

use kermode_crds::annotation::SIDECAR_INJECTION;
use serde_json::Value;

/// API group and kind of each workload, and the JSON pointer to its Pod template. The pointer of a Pod leads to the Pod
/// itself.
const WORKLOADS: &[(&str, &str, &str)] = &[
    ("", "Pod", ""),
    ("", "ReplicationController", "/spec/template"),
    ("apps", "DaemonSet", "/spec/template"),
    ("apps", "Deployment", "/spec/template"),
    ("apps", "ReplicaSet", "/spec/template"),
    ("apps", "StatefulSet", "/spec/template"),
    ("batch", "Job", "/spec/template"),
    ("batch", "CronJob", "/spec/jobTemplate/spec/template"),
];

/// Returns the JSON pointer to the Pod or Pod template of an object; `None` if the object contains neither.
pub fn pod_pointer(object: &Value) -> Option<&'static str> {
    let api_version = object.get("apiVersion")?.as_str()?;
    let kind = object.get("kind")?.as_str()?;
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    let mut matching = WORKLOADS
        .iter()
        .filter(|(workload_group, workload_kind, _)| *workload_group == group && *workload_kind == kind);
    let (_, _, pointer) = matching.next()?;
    object.pointer(pointer)?;
    Some(pointer)
}

/// Returns a warning for a workload that has the injection label or annotation in its own metadata and not in its Pod
/// template. Injection reads only the metadata of the Pod and its Namespace.
pub fn misplaced_request(object: &Value) -> Option<String> {
    let pointer = pod_pointer(object).filter(|pointer| !pointer.is_empty())?;
    let has_request = |object: &Value, field: &str| {
        let values = object.pointer(&format!("/metadata/{field}"));
        values.is_some_and(|values| values.get(SIDECAR_INJECTION).is_some())
    };
    let template = object.pointer(pointer)?;
    if has_request(template, "labels") || has_request(template, "annotations") {
        return None;
    }
    let field = ["labels", "annotations"]
        .into_iter()
        .find(|field| has_request(object, field))?;
    let noun = field.trim_end_matches('s');
    let kind = object.get("kind").and_then(Value::as_str).unwrap_or_default();
    let path = pointer.trim_start_matches('/').replace('/', ".");
    Some(format!(
        "{noun} {SIDECAR_INJECTION} has no effect on the {kind} itself: move it to {path}.metadata.labels"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pod_template_is_found_by_group_and_kind() {
        for (version, kind, pointer) in [
            ("v1", "Pod", Some("")),
            ("apps/v1", "Deployment", Some("/spec/template")),
            ("batch/v1", "CronJob", Some("/spec/jobTemplate/spec/template")),
            ("example.com/v1", "Deployment", None),
            ("v1", "Service", None),
        ] {
            let mut object = json!({"apiVersion": version, "kind": kind});
            object["spec"] = json!({"template": {}, "jobTemplate": {"spec": {"template": {}}}});
            assert_eq!(pod_pointer(&object), pointer, "{version} {kind}");
        }
        assert_eq!(
            pod_pointer(&json!({"apiVersion": "apps/v1", "kind": "Deployment"})),
            None
        );
        assert_eq!(pod_pointer(&json!([])), None);
    }

    #[test]
    fn request_outside_the_template_gives_a_warning() {
        let mut object = json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"labels": {SIDECAR_INJECTION: "enabled"}},
            "spec": {"template": {"metadata": {}}},
        });
        let warning = misplaced_request(&object).unwrap();
        assert!(warning.contains("spec.template.metadata.labels"), "{warning}");
        object["spec"]["template"]["metadata"]["labels"] = json!({SIDECAR_INJECTION: "disabled"});
        assert_eq!(misplaced_request(&object), None);
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": object["metadata"]});
        assert_eq!(misplaced_request(&pod), None);
    }
}
