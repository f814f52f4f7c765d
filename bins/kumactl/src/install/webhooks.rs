//! Registration of the control plane's webhooks (BEHAVIOUR sections 2.1 and 2.7).
//!
//! No `caBundle` is written: the control plane puts it in and keeps it right, and since it is absent here, applying
//! the manifests again does not take it away.

use kermode_crds::{GROUP, VERSION, annotation};
use serde_json::{Value, json};

use super::manifests::{NAME, cluster_wide};
use super::settings::{Settings, WebhookAddress};

/// Name of the MutatingWebhookConfiguration.
pub(super) const MUTATING: &str = "kuma-admission-mutating-webhook-configuration";
/// Name of the ValidatingWebhookConfiguration.
pub(super) const VALIDATING: &str = "kuma-validating-webhook-configuration";

const INJECT_PATH: &str = "/inject-sidecar";
const VALIDATE_PATH: &str = "/validate-kuma-io-v1alpha1";
const WORKLOADS_PATH: &str = "/validate-workloads";

/// The injector, three times: for labelled namespaces and labelled Pods it is a guarantee, for annotated Pods and for
/// other spellings of the label's value it depends on the control plane being there.
pub(super) fn mutating(settings: &Settings) -> Value {
    let policy = settings.injector_failure_policy.as_str();
    let labelled = json!({annotation::SIDECAR_INJECTION: "enabled"});
    // The control plane's own Pods must start while no control plane answers.
    let elsewhere = json!([{
        "key": "kubernetes.io/metadata.name",
        "operator": "NotIn",
        "values": [settings.namespace],
    }]);
    let mut by_namespace = injector("namespace-kuma-injector.kuma.io", policy, settings);
    by_namespace["namespaceSelector"] =
        json!({"matchLabels": labelled.clone(), "matchExpressions": elsewhere.clone()});
    let mut by_pod = injector("pods-kuma-injector.kuma.io", policy, settings);
    by_pod["objectSelector"] = json!({"matchLabels": labelled});
    by_pod["namespaceSelector"] = json!({"matchExpressions": elsewhere});
    // Sees every Pod of the cluster, so it may never stand in the way of one.
    let any = injector("kuma-injector.kuma.io", "Ignore", settings);
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": cluster_wide(MUTATING),
        "webhooks": [by_namespace, by_pod, any],
    })
}

fn injector(name: &str, policy: &str, settings: &Settings) -> Value {
    let rules = json!([rule("", "v1", &["pods"], &["CREATE"])]);
    webhook(name, policy, INJECT_PATH, rules, settings)
}

/// The validator of our custom resources, and the one that warns of workloads.
pub(super) fn validating(settings: &Settings) -> Value {
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": cluster_wide(VALIDATING),
        "webhooks": [resources(settings), workloads(settings)],
    })
}

fn resources(settings: &Settings) -> Value {
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
        "Fail",
        VALIDATE_PATH,
        rules,
        settings,
    );
    validator["matchConditions"] = json!([
        {
            // It checks what it writes before it writes; asking itself would make its start depend on itself.
            "name": "not-the-control-plane",
            "expression": format!(
                "request.userInfo.username != 'system:serviceaccount:{}:{NAME}'", settings.namespace),
        },
        {
            // A namespace that is being deleted would be stuck for as long as no control plane answers.
            "name": "not-the-deletion-of-a-namespace",
            "expression": "request.operation != 'DELETE' \
                || !(request.userInfo.username == 'system:kube-controller-manager' \
                || request.userInfo.username.startsWith('system:serviceaccount:kube-system:'))",
        },
    ]);
    validator
}

/// Warns where the injection label is on a workload itself instead of on its template. It has nothing to refuse, so
/// its absence or slowness may not be felt.
fn workloads(settings: &Settings) -> Value {
    let rules = json!([
        rule(
            "apps",
            "v1",
            &["daemonsets", "deployments", "statefulsets"],
            &["CREATE", "UPDATE"]
        ),
        rule("batch", "v1", &["cronjobs", "jobs"], &["CREATE", "UPDATE"]),
    ]);
    let mut warner = webhook(
        "workloads.kuma-admission.kuma.io",
        "Ignore",
        WORKLOADS_PATH,
        rules,
        settings,
    );
    let labelled = json!({"key": annotation::SIDECAR_INJECTION, "operator": "Exists"});
    warner["objectSelector"] = json!({"matchExpressions": [labelled]});
    warner["timeoutSeconds"] = 2.into();
    warner
}

fn webhook(name: &str, policy: &str, path: &str, rules: Value, settings: &Settings) -> Value {
    json!({
        "name": name,
        "admissionReviewVersions": ["v1"],
        "clientConfig": client_config(path, settings),
        "failurePolicy": policy,
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
        // The default, written out: the API server adds it, and kubectl would find a difference in every list of rules.
        "scope": "*",
    })
}

fn client_config(path: &str, settings: &Settings) -> Value {
    match &settings.webhooks_at {
        WebhookAddress::Service => {
            json!({"service": {"name": NAME, "namespace": settings.namespace, "path": path, "port": 443}})
        }
        WebhookAddress::Url(base) => json!({"url": format!("{base}{path}")}),
    }
}
