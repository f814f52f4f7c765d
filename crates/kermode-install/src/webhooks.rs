//! Registrations of the control plane's webhooks, see `docs/reference/injection.md#registration`.
//!
//! The control plane writes `caBundle`. The field is absent here, so that applying the manifests again does not remove
//! it.

use kermode_crds::{GROUP, VERSION, annotation};
use serde_json::{Value, json};

use crate::template::{either, is_set, namespace, option, text, without_slash};
use crate::{NAME, cluster_scoped};

/// Name of the MutatingWebhookConfiguration.
pub(crate) const MUTATING: &str = "kuma-admission-mutating-webhook-configuration";
/// Name of the ValidatingWebhookConfiguration.
pub(crate) const VALIDATING: &str = "kuma-validating-webhook-configuration";

const INJECT_PATH: &str = "/inject-sidecar";
const VALIDATE_PATH: &str = "/validate-kuma-io-v1alpha1";
const WORKLOADS_PATH: &str = "/validate-workloads";

/// Timeout of the webhooks that fail open in every installation. While the control plane does not answer, each call
/// delays its object for this long.
const SHORT_TIMEOUT_SECONDS: u32 = 2;

/// Namespaces of the cluster's own components, which start before the mesh and whose Pods must not wait for it. Only
/// injection labels with the value `enabled` lead to injection in them.
const CLUSTER_NAMESPACES: [&str; 3] = ["kube-system", "kube-node-lease", "kube-public"];

/// Registration of the injector, with three webhooks. The webhooks for labelled Namespaces and for labelled Pods match
/// only the value `enabled` and have the failure policy of the installation. The third webhook matches every Pod
/// outside of [`CLUSTER_NAMESPACES`], so that it also sees annotations and other values of the label. Its failure does
/// not block a Pod. All three exclude the namespace of the control plane.
pub(crate) fn mutating() -> Value {
    let failure_policy = || option("controlPlane.injectorFailurePolicy");
    let injection_label = json!({annotation::SIDECAR_INJECTION: "enabled"});
    // The namespace of the control plane is excluded, so that its Pods can start while no replica is ready.
    let outside_system_namespace = json!([{
        "key": "kubernetes.io/metadata.name",
        "operator": "NotIn",
        "values": [namespace()],
    }]);
    let mut for_labelled_namespaces = injector_webhook("namespace-kuma-injector.kuma.io", failure_policy());
    for_labelled_namespaces["namespaceSelector"] =
        json!({"matchLabels": injection_label.clone(), "matchExpressions": outside_system_namespace.clone()});
    let mut for_labelled_pods = injector_webhook("pods-kuma-injector.kuma.io", failure_policy());
    for_labelled_pods["objectSelector"] = json!({"matchLabels": injection_label});
    for_labelled_pods["namespaceSelector"] = json!({"matchExpressions": outside_system_namespace});
    // This webhook is called also for Pods that do not belong to the mesh. Its failure must not block them, and
    // may delay them only briefly.
    let mut for_any_pod = injector_webhook("kuma-injector.kuma.io", "Ignore".into());
    for_any_pod["namespaceSelector"] = json!({"matchExpressions": outside_system_and_cluster_namespaces()});
    for_any_pod["timeoutSeconds"] = SHORT_TIMEOUT_SECONDS.into();
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": cluster_scoped(MUTATING),
        "webhooks": [for_labelled_namespaces, for_labelled_pods, for_any_pod],
    })
}

/// Webhook that injects sidecars into Pods. The API server calls the webhook again if a later webhook changes the Pod.
/// The second call rewrites the probes of added containers, and restores the order of init containers.
fn injector_webhook(name: &str, failure_policy: Value) -> Value {
    let rules = json!([rule("", "v1", &["pods"], &["CREATE"])]);
    let mut webhook = webhook(name, failure_policy, INJECT_PATH, rules);
    webhook["reinvocationPolicy"] = "IfNeeded".into();
    webhook
}

/// Selects all namespaces except the namespaces of the control plane and of the cluster's own components.
fn outside_system_and_cluster_namespaces() -> Value {
    let cluster_namespaces = CLUSTER_NAMESPACES.into_iter().map(Value::from);
    let namespaces: Vec<Value> = [namespace()].into_iter().chain(cluster_namespaces).collect();
    json!([{"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": namespaces}])
}

/// Registration of the validator of custom resources and of the webhook that warns about workloads.
pub(crate) fn validating() -> Value {
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": cluster_scoped(VALIDATING),
        "webhooks": [resource_validator(), workload_warner()],
    })
}

/// Webhook that validates custom resources.
fn resource_validator() -> Value {
    let rules = json!([
        rule(
            GROUP,
            VERSION,
            &["containerpatches"],
            &["CREATE", "UPDATE", "DELETE"]
        ),
        rule(
            GROUP,
            VERSION,
            &["dataplanes", "meshes", "meshtrafficpermissions"],
            &["CREATE", "UPDATE"]
        ),
    ]);
    let mut validator = webhook(
        "validator.kuma-admission.kuma.io",
        "Fail".into(),
        VALIDATE_PATH,
        rules,
    );
    validator["matchConditions"] = json!([
        {
            // While the control plane starts, its webhook is not ready. A failed call would deny the control plane's
            // own writes, and so block the start.
            "name": "not-the-control-plane",
            "expression": text([
                "request.userInfo.username != 'system:serviceaccount:".into(),
                namespace(),
                format!(":{NAME}'").into(),
            ]),
        },
        {
            // Controllers of Kubernetes delete the objects of a deleted Namespace. These deletions must succeed even
            // while no replica is ready.
            "name": "not-a-deletion-by-a-kubernetes-controller",
            "expression": "request.operation != 'DELETE' \
                || !(request.userInfo.username == 'system:kube-controller-manager' \
                || request.userInfo.username.startsWith('system:serviceaccount:kube-system:'))",
        },
    ]);
    validator
}

/// Webhook that warns about workloads and Namespaces whose Pods would be denied or get no sidecar. The webhook denies
/// nothing, so it has a short timeout, and its failures are ignored. Controllers ignore warnings, so their objects, for
/// example the ReplicaSets of a Deployment, are left out.
fn workload_warner() -> Value {
    let rules = json!([
        rule(
            "apps",
            "v1",
            &["daemonsets", "deployments", "replicasets", "statefulsets"],
            &["CREATE", "UPDATE"]
        ),
        rule("batch", "v1", &["cronjobs", "jobs"], &["CREATE", "UPDATE"]),
        rule(
            "",
            "v1",
            &["namespaces", "replicationcontrollers"],
            &["CREATE", "UPDATE"]
        ),
    ]);
    let mut warner = webhook(
        "workloads.kuma-admission.kuma.io",
        "Ignore".into(),
        WORKLOADS_PATH,
        rules,
    );
    warner["namespaceSelector"] = json!({"matchExpressions": outside_system_and_cluster_namespaces()});
    warner["timeoutSeconds"] = SHORT_TIMEOUT_SECONDS.into();
    warner["matchConditions"] = json!([{
        "name": "not-owned-by-a-controller",
        "expression": "!has(object.metadata.ownerReferences) \
            || !object.metadata.ownerReferences.exists(owner, has(owner.controller) && owner.controller)",
    }]);
    warner
}

fn webhook(name: &str, failure_policy: Value, path: &str, rules: Value) -> Value {
    json!({
        "name": name,
        "admissionReviewVersions": ["v1"],
        "clientConfig": client_config(path),
        "failurePolicy": failure_policy,
        "rules": rules,
        "sideEffects": "None",
        "timeoutSeconds": 10,
    })
}

fn rule(group: &str, version: &str, resources: &[&str], operations: &[&str]) -> Value {
    json!({
        "apiGroups": [group],
        "apiVersions": [version],
        "operations": operations,
        "resources": resources,
        // The default of the API server. Without it, kubectl diff would report a difference.
        "scope": "*",
    })
}

fn client_config(path: &str) -> Value {
    let url = "controlPlane.webhookUrl";
    let service = json!({"name": NAME, "namespace": namespace(), "path": path, "port": 443});
    either(
        is_set(url),
        json!({"url": text([without_slash(url), path.into()])}),
        json!({"service": service}),
    )
}
