//! `/validate-workloads`: warns about a Deployment or other workload whose Pods would be denied, would get no sidecar
//! although one is requested, or cause warnings. Without these warnings, only the controller of the Pods would learn of
//! the problem. Also warns about an injection label on the workload instead of on its Pod template, where injection
//! reads it. Never denies.

use kermode_inject::Outcome;
use kermode_inject::workload::{misplaced_request, pod_pointer};
use serde_json::{Value, json};

use super::Webhooks;
use super::deadline::Deadlines;
use super::review::{Request, Response};

/// Label of this webhook in metrics.
const WEBHOOK: &str = "workload";

impl Webhooks {
    pub(super) async fn check_workload(&self, request: Request, deadlines: Deadlines) -> Response {
        let misplaced = misplaced_request(&request.object);
        let (mut reason, mut warnings) = match misplaced {
            Some(warning) => ("LabelNotOnTemplate", vec![warning]),
            None => ("Valid", Vec::new()),
        };
        if let Some(pod) = new_pod(&request)
            && let Some((problem, of_pods)) = self.check_template(&request, &pod, deadlines).await
        {
            reason = problem;
            warnings.extend(of_pods);
        }
        let outcome = if warnings.is_empty() { "allowed" } else { "warned" };
        self.metrics.count(WEBHOOK, outcome, reason);
        Response::allow(request.uid).with_warnings(warnings)
    }

    /// Returns the reason of the problem that the Pods of a workload would have, and the warnings about it.
    async fn check_template(
        &self,
        request: &Request,
        pod: &Value,
        deadlines: Deadlines,
    ) -> Option<(&'static str, Vec<String>)> {
        let namespace = match request.namespace.as_str() {
            "" => "default",
            name => name,
        };
        let kind = &request.kind.kind;
        let record = self.find_namespace(namespace, deadlines).await.ok()?;
        match self.decide_with_lookups(pod, namespace, &record, deadlines).await {
            Err((denial, _)) => {
                let warning = format!("the Pods of this {kind} will be denied: {denial}");
                Some((denial.reason(), vec![warning]))
            }
            Ok(Outcome::Injected(injection)) if !injection.warnings.is_empty() => {
                let warn = |warning| format!("the Pods of this {kind}: {warning}");
                Some(("PodWarnings", injection.warnings.into_iter().map(warn).collect()))
            }
            Ok(Outcome::Skipped(reason)) => {
                let warning = reason.warning()?;
                Some((
                    reason.as_str(),
                    vec![format!("the Pods of this {kind}: {warning}")],
                ))
            }
            Ok(Outcome::Injected(_)) => None,
        }
    }
}

/// Returns a Pod as the controller of a workload would create it. Returns `None` for an update that leaves the template
/// as it was, and for an object that another controller has created: its owner was checked.
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

fn has_controller(object: &Value) -> bool {
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
