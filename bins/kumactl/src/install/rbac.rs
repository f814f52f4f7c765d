//! Access rights of the control plane: each verb is one that it uses, nothing is a wildcard (DESIGN section 4).

use kermode_crds::GROUP;
use serde_json::{Value, json};

use super::manifests::{NAME, cluster_wide, namespaced};
use super::settings::Settings;
use super::webhooks;

const READ: [&str; 3] = ["get", "list", "watch"];

/// The roles and their bindings.
pub(super) fn all(settings: &Settings) -> Vec<Value> {
    vec![
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": cluster_wide(NAME),
            "rules": cluster_rules(),
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": cluster_wide(NAME),
            "roleRef": role_ref("ClusterRole"),
            "subjects": subjects(settings),
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": namespaced(NAME, settings),
            "rules": namespace_rules(),
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": namespaced(NAME, settings),
            "roleRef": role_ref("Role"),
            "subjects": subjects(settings),
        }),
    ]
}

/// Everywhere: what becomes a mesh, and the Dataplanes made of it.
fn cluster_rules() -> Vec<Value> {
    vec![
        rule("", &["namespaces", "pods", "services"], &READ),
        // To name a workload after the controller of its controller (DESIGN decision 3).
        rule("apps", &["replicasets"], &READ),
        rule("batch", &["jobs"], &READ),
        rule("events.k8s.io", &["events"], &["create", "patch"]),
        rule(
            GROUP,
            &["dataplanes"],
            &["get", "list", "watch", "create", "update", "patch", "delete"],
        ),
        rule(GROUP, &["dataplanes/status", "meshes/status"], &["patch"]),
        // A Dataplane's owner reference to its Pod blocks the owner's deletion, which takes this right.
        rule(GROUP, &["dataplanes/finalizers"], &["update"]),
        rule("", &["pods/finalizers"], &["update"]),
        // Patched to note that a mesh's first objects were made: once, whatever becomes of them.
        rule(GROUP, &["meshes"], &["get", "list", "watch", "create", "patch"]),
        // To tell whose token a proxy shows.
        rule("authentication.k8s.io", &["tokenreviews"], &["create"]),
        // To keep the certificate in its own webhooks right.
        named(
            rule(
                "admissionregistration.k8s.io",
                &["mutatingwebhookconfigurations"],
                &["get", "list", "watch", "patch"],
            ),
            json!([webhooks::MUTATING]),
        ),
        named(
            rule(
                "admissionregistration.k8s.io",
                &["validatingwebhookconfigurations"],
                &["get", "list", "watch", "patch"],
            ),
            json!([webhooks::VALIDATING]),
        ),
    ]
}

/// In the system namespace: the authorities' keys, the leader's lease, and resources that only live here.
fn namespace_rules() -> Vec<Value> {
    vec![
        rule("", &["secrets"], &["get", "list", "watch", "create"]),
        named(
            rule("coordination.k8s.io", &["leases"], &["get", "update"]),
            json!(["kuma-cp-leader"]),
        ),
        // What is created has no name yet that a rule could ask for.
        rule("coordination.k8s.io", &["leases"], &["create"]),
        rule(GROUP, &["containerpatches"], &READ),
        rule(
            GROUP,
            &["meshtrafficpermissions"],
            &["get", "list", "watch", "create"],
        ),
    ]
}

fn rule(group: &str, resources: &[&str], verbs: &[&str]) -> Value {
    json!({"apiGroups": [group], "resources": resources, "verbs": verbs})
}

fn named(mut rule: Value, names: Value) -> Value {
    rule["resourceNames"] = names;
    rule
}

fn role_ref(kind: &str) -> Value {
    json!({"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": NAME})
}

fn subjects(settings: &Settings) -> Value {
    json!([{"kind": "ServiceAccount", "name": NAME, "namespace": settings.namespace}])
}
