//! Validation of MeshTrafficPermissions.

use serde::Deserialize;
use serde_json::Value;

use super::Problem;
use crate::traffic_permission::{MeshTrafficPermission, TARGET_FIELD, TargetRef, referenced_proxies, rule};

/// Returns the problems of a MeshTrafficPermission in `namespace`. MeshTrafficPermissions are valid only in
/// `system_namespace`.
pub fn traffic_permission(object: &Value, namespace: &str, system_namespace: &str) -> Vec<Problem> {
    let mut problems = Vec::new();
    if namespace != system_namespace {
        let message = format!("MeshTrafficPermission can only be placed in {system_namespace} namespace");
        problems.push(Problem::new("metadata.namespace", message));
    }
    let permission = match MeshTrafficPermission::deserialize(object) {
        Ok(permission) => permission,
        Err(error) => {
            problems.push(Problem::new("spec", error.to_string()));
            return problems;
        }
    };
    let spec = &permission.spec;
    problems.extend(
        referenced_proxies(TARGET_FIELD, &spec.target_ref)
            .err()
            .map(|error| error.problem()),
    );
    problems.extend(problems_of_unused_fields(TARGET_FIELD, &spec.target_ref));
    if spec.from.is_empty() {
        problems.push(Problem::new("spec.from", "needs at least one item"));
    }
    for (index, from) in spec.from.iter().enumerate() {
        problems.extend(rule(index, from).err().map(|error| error.problem()));
        problems.extend(problems_of_unused_fields(
            &format!("spec.from[{index}].targetRef"),
            &from.target_ref,
        ));
    }
    problems
}

/// Returns a problem for each field that is set in a reference but not used by the kind of the reference. Ignoring the
/// field would apply the permission to more proxies than intended.
fn problems_of_unused_fields(field: &str, reference: &TargetRef) -> Vec<Problem> {
    let has_name = reference.name.as_deref().is_some_and(|name| !name.is_empty());
    let mut problems = Vec::new();
    let mut report = |member: &str| {
        let message = format!("cannot be set with kind {}", reference.kind);
        problems.push(Problem::new(format!("{field}.{member}"), message));
    };
    if has_name && matches!(reference.kind.as_str(), "Mesh" | "MeshSubset") {
        report("name");
    }
    if !reference.tags.is_empty() && matches!(reference.kind.as_str(), "Mesh" | "MeshService") {
        report("tags");
    }
    problems
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn problems(spec: Value) -> Vec<String> {
        let object = json!({"metadata": {"name": "p"}, "spec": spec});
        let problems = traffic_permission(&object, "system", "system");
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn valid_permission_has_no_problem() {
        let from = json!([{
            "targetRef": {"kind": "MeshServiceSubset", "name": "web_ns_svc_80", "tags": {"version": "1"}},
            "default": {"action": "Deny"},
        }]);
        assert_eq!(
            problems(json!({"targetRef": {"kind": "Mesh"}, "from": from})),
            [""; 0]
        );
    }

    #[test]
    fn all_problems_are_reported_with_their_fields() {
        let from = json!([
            {"targetRef": {"kind": "MeshService"}, "default": {"action": "Allow"}},
            {"targetRef": {"kind": "Mesh", "name": "web"}, "default": {"action": "Perhaps"}},
        ]);
        assert_eq!(
            problems(json!({"targetRef": {"kind": "MeshGatewayRoute", "name": "r"}, "from": from})),
            [
                "spec.targetRef.kind: \"MeshGatewayRoute\" is not supported: use Mesh, MeshSubset, MeshService or \
                 MeshServiceSubset",
                "spec.from[0].targetRef.name: must be set with kind MeshService",
                "spec.from[1].default.action: \"Perhaps\" is unknown: use Allow, Deny or AllowWithShadowDeny",
                "spec.from[1].targetRef.name: cannot be set with kind Mesh",
            ]
        );
        assert_eq!(
            problems(json!({"targetRef": {"kind": "Mesh"}})),
            ["spec.from: needs at least one item"]
        );
    }

    #[test]
    fn permission_outside_the_system_namespace_is_a_problem() {
        let object = json!({"spec": {"targetRef": {"kind": "Mesh"}, "from": [
            {"targetRef": {"kind": "Mesh"}, "default": {"action": "Allow"}}]}});
        let problems = traffic_permission(&object, "shop", "system");
        assert_eq!(
            problems.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["metadata.namespace: MeshTrafficPermission can only be placed in system namespace"]
        );
    }
}
