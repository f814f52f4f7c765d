//! Objects that run the control plane: ServiceAccount, ConfigMap, Service, Deployment and PodDisruptionBudget.

use kermode_crds::annotation;
use serde_json::{Value, json};

use crate::template::{
    Condition, Expression, ObjectTemplate, all, each, extend, image, image_pull_secrets, is_set, item, key,
    not, only_if, option,
};
use crate::{NAME, field_ref, labels, namespaced};

/// Environment variables that the Deployment sets from fields of the Pod: name and field path.
pub const POD_FIELD_VARIABLES: [(&str, &str); 2] = [
    ("POD_NAME", "metadata.name"),
    ("POD_NAMESPACE", "metadata.namespace"),
];

/// Path of the option with the number of replicas.
const REPLICAS: &str = "controlPlane.replicas";

/// Name of the ConfigMap with the configuration file.
pub const CONFIG_MAP: &str = "kuma-control-plane-config";
const CONFIG_DIRECTORY: &str = "/etc/kuma.io/kuma-control-plane";
/// Entry of [`CONFIG_MAP`]: the configuration file.
pub const CONFIG_FILE: &str = "config.yaml";
/// User ID and group ID of the control plane, as in Kuma.
const USER_AND_GROUP_ID: u32 = 5678;

/// A port of the control plane, see `docs/reference/names-and-ports.md#ports`.
#[derive(Clone, Copy, Debug)]
pub struct Port {
    /// Name in the Pod. Kubernetes allows at most 15 characters.
    pub name: &'static str,
    /// Name in the Service, as in Kuma.
    pub service_name: &'static str,
    /// Port of the Service.
    pub service_port: u16,
    /// Port of the container.
    pub container_port: u16,
}

/// Ports of the control plane that other processes of the cluster connect to.
pub const PORTS: [Port; 3] = [
    Port {
        name: "admission",
        service_name: "https-admission-server",
        service_port: 443,
        container_port: 5443,
    },
    Port {
        name: "dp-server",
        service_name: "dp-server",
        service_port: 5678,
        container_port: 5678,
    },
    Port {
        name: "diagnostics",
        service_name: "diagnostics",
        service_port: 5680,
        container_port: 5680,
    },
];

/// ServiceAccount of the control plane, to which the role bindings give access rights.
pub(crate) fn service_account() -> Value {
    json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": namespaced(NAME)})
}

/// ConfigMap with the configuration file.
pub(crate) fn config_map() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": namespaced(CONFIG_MAP),
        "data": {CONFIG_FILE: Value::from(Expression::Configuration {})},
    })
}

/// Service that proxies and the API server connect to.
pub(crate) fn service() -> Value {
    let ports: Vec<Value> = PORTS
        .iter()
        .map(|port| {
            json!({"name": port.service_name, "port": port.service_port, "targetPort": port.name, "protocol": "TCP"})
        })
        .collect();
    // Without a Deployment, the control plane runs outside of the cluster, and the user creates an EndpointSlice.
    let selector = only_if(has_deployment(), json!({"app": NAME}));
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": namespaced(NAME),
        "spec": {"type": "ClusterIP", "ports": ports, "selector": selector},
    })
}

/// Deployment of the control plane. The checksum of the configuration is an annotation of the Pod template, so a change
/// of the configuration replaces the Pods.
pub(crate) fn deployment() -> ObjectTemplate {
    let checksum = Value::from(Expression::ConfigurationChecksum {});
    let deployment = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": namespaced(NAME),
        "spec": {
            "replicas": option(REPLICAS),
            "selector": {"matchLabels": {"app": NAME}},
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
            },
            "template": {
                "metadata": {"labels": pod_labels(), "annotations": {"checksum/config": checksum}},
                "spec": pod_spec(),
            },
        },
    });
    ObjectTemplate::conditional(has_deployment(), deployment)
}

/// PodDisruptionBudget. There is none for a single replica, because the node of this replica could then not be drained, or
/// the budget would have no effect.
pub(crate) fn disruption_budget() -> ObjectTemplate {
    let max_unavailable = option("controlPlane.podDisruptionBudget.maxUnavailable");
    let budget = json!({
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": namespaced(NAME),
        "spec": {"maxUnavailable": max_unavailable, "selector": {"matchLabels": {"app": NAME}}},
    });
    ObjectTemplate::conditional(all([has_deployment(), has_several_replicas()]), budget)
}

fn has_deployment() -> Condition {
    not(is_set("controlPlane.withoutDeployment"))
}

fn has_several_replicas() -> Condition {
    Condition::GreaterThan(REPLICAS.to_owned(), 1)
}

fn pod_labels() -> Value {
    let mut labels = labels();
    labels[annotation::SIDECAR_INJECTION] = "disabled".into();
    labels
}

fn pod_spec() -> Value {
    let priority_class = "controlPlane.priorityClassName";
    let tolerations = "controlPlane.tolerations";
    let spread = "controlPlane.topologySpread";
    let constraint = json!({
        "maxSkew": 1,
        "topologyKey": key(),
        "whenUnsatisfiable": item(),
        "labelSelector": {"matchLabels": {"app": NAME}},
    });
    let mut spec = json!({
        "serviceAccountName": NAME,
        "securityContext": {
            "runAsNonRoot": true,
            "runAsUser": USER_AND_GROUP_ID,
            "runAsGroup": USER_AND_GROUP_ID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "priorityClassName": only_if(is_set(priority_class), option(priority_class)),
        "nodeSelector": option("controlPlane.nodeSelector"),
        "tolerations": only_if(is_set(tolerations), option(tolerations)),
        "topologySpreadConstraints":
            only_if(all([has_several_replicas(), is_set(spread)]), json!([each(spread, constraint)])),
        "terminationGracePeriodSeconds": 30,
        "containers": [container()],
        "volumes": [{"name": "config", "configMap": {"name": CONFIG_MAP}}],
    });
    extend(&mut spec, image_pull_secrets());
    spec
}

fn container() -> Value {
    let ports: Vec<Value> = PORTS
        .iter()
        .map(|port| json!({"name": port.name, "containerPort": port.container_port, "protocol": "TCP"}))
        .collect();
    json!({
        "name": "control-plane",
        "image": image("controlPlane.image"),
        "imagePullPolicy": "IfNotPresent",
        "args": ["run", format!("--config-file={CONFIG_DIRECTORY}/{CONFIG_FILE}")],
        "env": environment(),
        "ports": ports,
        "livenessProbe": probe("/healthy", 10, 6),
        "readinessProbe": probe("/ready", 2, 3),
        "resources": {
            "requests": {
                "cpu": option("controlPlane.resources.requests.cpu"),
                "memory": option("controlPlane.resources.requests.memory"),
            },
            "limits": {"memory": option("controlPlane.resources.limits.memory")},
        },
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": true,
        },
        "volumeMounts": [{"name": "config", "mountPath": CONFIG_DIRECTORY, "readOnly": true}],
    })
}

fn probe(path: &str, period_seconds: u32, failure_threshold: u32) -> Value {
    json!({
        "httpGet": {"path": path, "port": "diagnostics"},
        "periodSeconds": period_seconds,
        "timeoutSeconds": 3,
        "failureThreshold": failure_threshold,
    })
}

fn environment() -> Vec<Value> {
    let from_pod = POD_FIELD_VARIABLES
        .iter()
        .map(|(name, path)| json!({"name": name, "valueFrom": {"fieldRef": field_ref(path)}}));
    let of_installation = each("controlPlane.envVars", json!({"name": key(), "value": item()}));
    from_pod.chain([of_installation]).collect()
}
