//! NetworkPolicy that closes the control plane to all connections that it does not need
//! (`docs/operations.md#network-policies`).

use serde_json::{Value, json};

use crate::template::{ObjectTemplate, all, each, is_set, item, not, only_if};
use crate::{NAME, namespaced};

/// Path of the option with the addresses of the API server.
const API_SERVER_CIDRS: &str = "networkPolicies.apiServerCIDRs";
/// Path of the option with the namespaces that may read metrics.
const METRICS_NAMESPACES: &str = "networkPolicies.metricsNamespaces";

/// The policy. Connections of the kubelet to the Pods of its node need no rule: NetworkPolicies never close them.
pub(crate) fn policy() -> ObjectTemplate {
    let condition = all([
        is_set("networkPolicies.enabled"),
        not(is_set("controlPlane.withoutDeployment")),
    ]);
    // A rule without `from` matches all addresses.
    let api_server = only_if(
        is_set(API_SERVER_CIDRS),
        json!([each(API_SERVER_CIDRS, json!({"ipBlock": {"cidr": item()}}))]),
    );
    let any_pod = json!([{"namespaceSelector": {}}]);
    let metrics_namespace =
        json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": item()}}});
    let metrics = json!([each(METRICS_NAMESPACES, metrics_namespace)]);
    let policy = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": namespaced(NAME),
        "spec": {
            "podSelector": {"matchLabels": {"app": NAME}},
            "policyTypes": ["Ingress"],
            "ingress": [
                {"from": api_server, "ports": ports("admission")},
                {"from": any_pod, "ports": ports("dp-server")},
                only_if(
                    is_set(METRICS_NAMESPACES),
                    json!({"from": metrics, "ports": ports("diagnostics")}),
                ),
            ],
        },
    });
    ObjectTemplate::conditional(condition, policy)
}

/// The port of the control plane's Pods with this name.
fn ports(name: &str) -> Value {
    json!([{"port": name, "protocol": "TCP"}])
}
