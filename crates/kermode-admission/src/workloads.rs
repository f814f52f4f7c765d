//! `/validate-workloads`: warns about a Deployment or other workload whose Pods would be denied, would get no sidecar
//! although one is requested, or cause warnings. Without these warnings, only the controller of the Pods would learn of
//! the problem. Also warns about an injection label on the workload instead of on its Pod template, where injection
//! reads it, and about a Namespace whose labels or annotations cause such problems for its Pods. Never denies.

use k8s_openapi::api::core::v1::Namespace;
use kermode_crds::annotation::{MESH, SIDECAR_INJECTION};
use kermode_inject::workload::{misplaced_request, pod_pointer};
use kermode_inject::{Denial, Outcome};
use kermode_k8s::convert::facts::NamespaceFacts;
use serde_json::{Value, json};

use super::Webhooks;
use super::deadline::Deadlines;
use super::review::{Request, Response};
use crate::directory::NamespaceRecord;

/// Value of the metrics label `webhook`.
const WEBHOOK: &str = "workload";

/// Kind of a Namespace.
const NAMESPACE: &str = "Namespace";
/// Grace period, in seconds, of the Pod that a Namespace is checked with. Usual drain times fit into this period, so
/// the check does not warn about the grace period, which each Pod of the Namespace sets itself.
const AMPLE_GRACE_PERIOD: u32 = 24 * 60 * 60;

/// Problem of the Pods of a workload or Namespace.
struct PodProblem {
    /// Value of the label `reason` of the metric.
    reason: &'static str,
    warnings: Vec<String>,
}

impl Webhooks {
    pub(super) async fn check_workload(&self, request: Request, deadlines: Deadlines) -> Response {
        let misplaced = misplaced_request(&request.object);
        let (mut reason, mut warnings) = match misplaced {
            Some(warning) => ("LabelNotOnTemplate", vec![warning]),
            None => ("Valid", Vec::new()),
        };
        let problem = if request.kind.kind == NAMESPACE {
            self.check_namespace(&request, deadlines).await
        } else {
            self.check_template(&request, deadlines).await
        };
        if let Some(problem) = problem {
            reason = problem.reason;
            warnings.extend(problem.warnings);
        }
        let outcome = if warnings.is_empty() { "allowed" } else { "warned" };
        self.metrics.count(WEBHOOK, outcome, reason);
        Response::allow(request.uid).with_warnings(warnings)
    }

    /// Returns the problem that the Pods of a workload would have.
    async fn check_template(&self, request: &Request, deadlines: Deadlines) -> Option<PodProblem> {
        let pod = new_pod(request)?;
        let namespace = match request.namespace.as_str() {
            "" => "default",
            name => name,
        };
        let record = self.find_namespace(namespace, deadlines).await.ok()?;
        let pods = format!("the Pods of this {}", request.kind.kind);
        self.check_pod(&pod, &pods, (namespace, &record), deadlines).await
    }

    /// Returns the problem that Pods without labels and annotations of their own would have in a Namespace, or the
    /// missing Mesh of Pods that request injection themselves.
    async fn check_namespace(&self, request: &Request, deadlines: Deadlines) -> Option<PodProblem> {
        if !changes_labels_or_annotations(request) {
            return None;
        }
        let namespace: Namespace = serde_json::from_value(request.object.clone()).ok()?;
        let name = namespace.metadata.name.clone().unwrap_or_default();
        let record = NamespaceRecord::from(&NamespaceFacts::from(&namespace));
        let mut pod = json!({
            "metadata": {"generateName": "any-"},
            "spec": {
                "containers": [{"name": "app"}],
                "terminationGracePeriodSeconds": AMPLE_GRACE_PERIOD,
            },
        });
        let pods = "the Pods of this Namespace";
        let problem = self.check_pod(&pod, pods, (&name, &record), deadlines).await;
        if problem.is_some() || !(record.labels.contains_key(MESH) || record.annotations.contains_key(MESH)) {
            return problem;
        }
        pod["metadata"]["labels"] = json!({SIDECAR_INJECTION: "enabled"});
        match self.decide_with_lookups(&pod, &name, &record, deadlines).await {
            Err((denial @ Denial::MeshNotFound { .. }, _)) => Some(PodProblem {
                reason: denial.reason(),
                warnings: vec![format!("{pods} that request injection will be denied: {denial}")],
            }),
            _ => None,
        }
    }

    /// Returns the problem of a Pod. `pods` names such Pods in messages, for example `the Pods of this Job`.
    async fn check_pod(
        &self,
        pod: &Value,
        pods: &str,
        (namespace, record): (&str, &NamespaceRecord),
        deadlines: Deadlines,
    ) -> Option<PodProblem> {
        let problem = |reason, warnings| Some(PodProblem { reason, warnings });
        match self.decide_with_lookups(pod, namespace, record, deadlines).await {
            Err((denial, _)) => problem(denial.reason(), vec![format!("{pods} will be denied: {denial}")]),
            Ok(Outcome::Injected(injection)) if !injection.warnings.is_empty() => {
                let warn = |warning| format!("{pods}: {warning}");
                problem("PodWarnings", injection.warnings.into_iter().map(warn).collect())
            }
            Ok(Outcome::Skipped(reason)) => {
                problem(reason.as_str(), vec![format!("{pods}: {}", reason.warning()?)])
            }
            Ok(Outcome::Injected(_)) => None,
        }
    }
}

/// Whether a request changes the labels or annotations of an object, or creates an object with labels or annotations.
fn changes_labels_or_annotations(request: &Request) -> bool {
    ["/metadata/labels", "/metadata/annotations"]
        .iter()
        .any(|map| request.object.pointer(map) != request.old_object.pointer(map))
}

/// Returns a Pod as the controller of a workload would create it. Returns `None` for an object without a Pod template,
/// for an update that leaves the template as it was, and for an object that a controller has created: the template was
/// checked when the owner of the object was applied.
fn new_pod(request: &Request) -> Option<Value> {
    let object = &request.object;
    let pointer = pod_pointer(object).filter(|pointer| !pointer.is_empty())?;
    let template = object.pointer(pointer)?;
    if request.old_object.pointer(pointer) == Some(template) || has_controller(object) {
        return None;
    }
    let mut pod = template.clone();
    let metadata = pod.as_object_mut()?.entry("metadata").or_insert(Value::Null);
    if metadata.is_null() {
        *metadata = json!({});
    }
    let name = object
        .pointer("/metadata/name")
        .and_then(Value::as_str)
        .unwrap_or_default();
    metadata
        .as_object_mut()?
        .insert("generateName".to_owned(), format!("{name}-").into());
    Some(pod)
}

/// Whether a controller created the object. Controllers ignore warnings.
pub(super) fn has_controller(object: &Value) -> bool {
    let owners = object
        .pointer("/metadata/ownerReferences")
        .and_then(Value::as_array);
    owners
        .into_iter()
        .flatten()
        .any(|owner| owner["controller"] == true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_request(object: Value, old_object: Value) -> Request {
        Request {
            object,
            old_object,
            ..Request::default()
        }
    }

    fn deployment(template: Value) -> Value {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {"template": template}})
    }

    #[test]
    fn pod_has_the_template_and_a_generated_name() {
        for metadata in [Value::Null, json!({}), json!({"labels": {"app": "a"}})] {
            let template = json!({"metadata": metadata, "spec": {"containers": []}});
            let pod = new_pod(&mk_request(deployment(template), Value::Null)).expect("a Pod");
            assert_eq!(pod["metadata"]["generateName"], "web-");
            assert_eq!(pod["metadata"]["labels"], metadata["labels"]);
            assert_eq!(pod["spec"], json!({"containers": []}));
        }
    }

    #[test]
    fn unchanged_templates_and_objects_of_controllers_are_not_checked() {
        let template = json!({"metadata": {}, "spec": {}});
        let (object, mut scaled) = (deployment(template.clone()), deployment(template));
        scaled["spec"]["replicas"] = 2.into();
        assert_eq!(new_pod(&mk_request(scaled, object.clone())), None);
        let changed = deployment(json!({"metadata": {}, "spec": {"hostNetwork": true}}));
        assert!(new_pod(&mk_request(changed, object.clone())).is_some());
        let mut owned = object;
        owned["metadata"]["ownerReferences"] = json!([{"kind": "CronJob", "controller": true}]);
        assert_eq!(new_pod(&mk_request(owned, Value::Null)), None);
    }

    #[test]
    fn namespace_is_checked_if_its_labels_or_annotations_are_set_or_changed() {
        let namespace = json!({"metadata": {"name": "shop", "labels": {"a": "1"}}});
        assert!(changes_labels_or_annotations(&mk_request(
            namespace.clone(),
            Value::Null
        )));
        assert!(!changes_labels_or_annotations(&mk_request(
            namespace.clone(),
            namespace.clone()
        )));
        for map in ["labels", "annotations"] {
            let mut changed = namespace.clone();
            changed["metadata"][map] = json!({"a": "2"});
            assert!(
                changes_labels_or_annotations(&mk_request(changed, namespace.clone())),
                "{map}"
            );
        }
    }

    #[test]
    fn malformed_objects_have_no_pod() {
        for object in [
            Value::Null,
            json!([]),
            deployment(Value::Null),
            deployment(json!([])),
            deployment(json!({"metadata": []})),
            json!({"apiVersion": "v1", "kind": "Pod", "spec": {}}),
        ] {
            assert_eq!(new_pod(&mk_request(object, Value::Null)), None);
        }
    }
}
