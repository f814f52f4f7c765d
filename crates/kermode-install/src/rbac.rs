//! Access rights of the control plane: only the verbs that it uses, and no wildcards (`docs/design.md#access-rights`).

use kermode_crds::GROUP;
use kermode_model::{CONTROL_PLANE_CA_CONFIG_MAP, VIRTUAL_IPS_CONFIG_MAP};
use serde_json::{Value, json};

use crate::template::{all as all_of, is_set, namespace, not, only_if};
use crate::webhooks;
use crate::{NAME, cluster_scoped, namespaced};

const READ_VERBS: [&str; 3] = ["get", "list", "watch"];

/// Roles and their bindings.
pub(crate) fn all() -> Vec<Value> {
    vec![
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": cluster_scoped(NAME),
            "rules": cluster_rules(),
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": cluster_scoped(NAME),
            "roleRef": role_ref("ClusterRole"),
            "subjects": subjects(),
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": namespaced(NAME),
            "rules": namespace_rules(),
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": namespaced(NAME),
            "roleRef": role_ref("Role"),
            "subjects": subjects(),
        }),
    ]
}

/// Rules that apply in the whole cluster.
fn cluster_rules() -> Vec<Value> {
    let without_chaining = || all_of([is_set("cni.enabled"), not(is_set("cni.chained"))]);
    // The network of the CNI plugin is published in the namespaces of sidecars
    // (docs/design.md#network-configuration-of-a-node).
    let (group, networks) = ("k8s.cni.cncf.io", ["network-attachment-definitions"]);
    let existing_networks = rule(group, &networks, &["list", "watch", "patch"]);
    vec![
        rule("", &["namespaces", "pods", "services"], &READ_VERBS),
        // Endpoints of Services without selector (docs/reference/dataplane.md#services-without-selector).
        rule("discovery.k8s.io", &["endpointslices"], &["list", "watch"]),
        // The oldest kubelet decides whether sidecars are native (docs/design.md#sidecar-modes).
        rule("", &["nodes"], &["list", "watch"]),
        // The service of a service-less Pod is named after its workload: the owner of its ReplicaSet or Job
        // (docs/design.md#service-less-names).
        rule("apps", &["replicasets"], &READ_VERBS),
        rule("batch", &["jobs"], &READ_VERBS),
        // An Event about a denied Pod is written only if the Pod's controller exists
        // (docs/reference/admission-messages.md#events).
        rule("apps", &["daemonsets", "statefulsets"], &["get"]),
        rule("", &["replicationcontrollers"], &["get"]),
        rule("events.k8s.io", &["events"], &["create", "patch"]),
        // The roots of the control plane are published in the namespaces of sidecars
        // (docs/design.md#roots-of-the-control-plane). A rule with resourceNames cannot allow `create`.
        with_names(
            rule("", &["configmaps"], &["list", "watch", "patch"]),
            json!([CONTROL_PLANE_CA_CONFIG_MAP]),
        ),
        rule("", &["configmaps"], &["create"]),
        rule(
            GROUP,
            &["dataplanes"],
            &["get", "list", "watch", "create", "update", "patch", "delete"],
        ),
        rule(GROUP, &["dataplanes/status", "meshes/status"], &["patch"]),
        // Required for owner references with blockOwnerDeletion: a Dataplane references its Pod.
        rule("", &["pods/finalizers"], &["update"]),
        // `create` is for the Mesh `default`. `patch` is for the annotation that records that the initial
        // MeshTrafficPermission was created.
        rule(GROUP, &["meshes"], &["get", "list", "watch", "create", "patch"]),
        // A TokenReview authenticates the token of a proxy.
        rule("authentication.k8s.io", &["tokenreviews"], &["create"]),
        // The control plane writes the caBundle of its own webhook registrations.
        with_names(
            rule(
                "admissionregistration.k8s.io",
                &["mutatingwebhookconfigurations"],
                &["get", "list", "watch", "patch"],
            ),
            json!([webhooks::MUTATING]),
        ),
        with_names(
            rule(
                "admissionregistration.k8s.io",
                &["validatingwebhookconfigurations"],
                &["get", "list", "watch", "patch"],
            ),
            json!([webhooks::VALIDATING]),
        ),
        only_if(
            without_chaining(),
            with_names(existing_networks, json!(["kuma-cni"])),
        ),
        only_if(without_chaining(), rule(group, &networks, &["create"])),
    ]
}

/// Rules that apply in the control plane's namespace: for Secrets of the CAs, the ConfigMap of virtual IPs, the Lease, and
/// custom resources that exist only there.
fn namespace_rules() -> Vec<Value> {
    vec![
        rule("", &["secrets"], &["get", "list", "watch", "create"]),
        // The virtual IPs are stored in a ConfigMap (docs/design.md#mesh-dns-names). The ClusterRole allows `create`.
        with_names(
            rule("", &["configmaps"], &["list", "watch", "patch"]),
            json!([VIRTUAL_IPS_CONFIG_MAP]),
        ),
        with_names(
            rule("coordination.k8s.io", &["leases"], &["get", "update"]),
            json!(["kuma-cp-leader"]),
        ),
        // A rule with resourceNames cannot allow `create`.
        rule("coordination.k8s.io", &["leases"], &["create"]),
        rule(GROUP, &["containerpatches"], &READ_VERBS),
        rule(
            GROUP,
            &["meshtrafficpermissions"],
            &["get", "list", "watch", "create"],
        ),
        rule(GROUP, &["meshtrafficpermissions/status"], &["patch"]),
    ]
}

fn rule(group: &str, resources: &[&str], verbs: &[&str]) -> Value {
    json!({"apiGroups": [group], "resources": resources, "verbs": verbs})
}

/// Limits a rule to the objects with these names.
fn with_names(mut rule: Value, names: Value) -> Value {
    rule["resourceNames"] = names;
    rule
}

fn role_ref(kind: &str) -> Value {
    json!({"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": NAME})
}

fn subjects() -> Value {
    json!([{"kind": "ServiceAccount", "name": NAME, "namespace": namespace()}])
}
