//! `/validate-workloads`: warns about a workload that has the injection label on the workload object instead of the Pod
//! template. Such a label has no effect, because injection reads the labels of Pods. This webhook never denies an
//! object.

use kermode_crds::annotation::SIDECAR_INJECTION;
use serde_json::Value;

use super::Webhooks;
use super::review::{Request, Response};

/// Label of this webhook in metrics.
const WEBHOOK: &str = "workload";

impl Webhooks {
    pub(super) fn check_workload(&self, request: Request) -> Response {
        let warning = misplaced_label_warning(&request);
        let response = Response::allow(request.uid);
        let Some(warning) = warning else {
            self.metrics.count(WEBHOOK, "allowed", "Valid");
            return response;
        };
        self.metrics.count(WEBHOOK, "warned", "LabelNotOnTemplate");
        response.with_warnings(vec![warning])
    }
}

/// Returns the warning about a workload that has the injection label while its Pod template has neither the injection
/// label nor the injection annotation.
fn misplaced_label_warning(request: &Request) -> Option<String> {
    let path = match request.kind.kind.as_str() {
        "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "Job" => "/spec/template/metadata",
        "CronJob" => "/spec/jobTemplate/spec/template/metadata",
        _ => return None,
    };
    let has_injection_key = |metadata: &Value, field: &str| {
        metadata
            .get(field)
            .is_some_and(|map| map.get(SIDECAR_INJECTION).is_some())
    };
    let template_metadata = request.object.pointer(path).unwrap_or(&Value::Null);
    if !has_injection_key(request.object.get("metadata")?, "labels")
        || has_injection_key(template_metadata, "labels")
        || has_injection_key(template_metadata, "annotations")
    {
        return None;
    }
    Some(format!(
        "label {SIDECAR_INJECTION} on a {} has no effect: injection reads Pod labels; set the label in {}.labels",
        request.kind.kind,
        path.trim_start_matches('/').replace('/', "."),
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn warning(kind: &str, object: Value) -> Option<String> {
        misplaced_label_warning(&Request {
            kind: crate::review::Kind {
                kind: kind.to_owned(),
            },
            object,
            ..Request::default()
        })
    }

    /// Returns a workload with the injection label.
    fn labelled(spec: Value) -> Value {
        json!({"metadata": {"labels": {SIDECAR_INJECTION: "enabled"}}, "spec": spec})
    }

    /// Returns the spec of a workload whose Pod template has `metadata`.
    fn mk_spec(metadata: Value) -> Value {
        json!({"template": {"metadata": metadata}})
    }

    #[test]
    fn label_only_on_the_workload_causes_a_warning_that_names_the_template() {
        for kind in ["Deployment", "StatefulSet", "DaemonSet", "Job"] {
            let text = warning(kind, labelled(mk_spec(json!({"labels": {"app": "a"}})))).expect(kind);
            assert!(
                text.contains(kind) && text.ends_with("set the label in spec.template.metadata.labels"),
                "{text}"
            );
        }
        let text = warning(
            "CronJob",
            labelled(json!({"jobTemplate": {"spec": mk_spec(json!({}))}})),
        );
        assert!(
            text.expect("a warning")
                .ends_with("spec.jobTemplate.spec.template.metadata.labels")
        );
    }

    #[test]
    fn template_with_label_or_annotation_causes_no_warning() {
        for map in ["labels", "annotations"] {
            let spec = mk_spec(json!({map: {SIDECAR_INJECTION: "disabled"}}));
            assert_eq!(warning("Deployment", labelled(spec)), None);
        }
        assert_eq!(warning("Deployment", json!({"metadata": {}, "spec": {}})), None);
    }

    #[test]
    fn other_kinds_are_ignored_and_malformed_objects_do_not_panic() {
        assert_eq!(warning("Pod", labelled(json!({}))), None);
        assert_eq!(warning("Deployment", Value::Null), None);
        for spec in [
            Value::Null,
            json!(1),
            json!({"template": []}),
            mk_spec(json!("x")),
        ] {
            assert!(warning("Deployment", labelled(spec)).is_some());
        }
    }
}
