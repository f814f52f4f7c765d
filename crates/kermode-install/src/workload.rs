//! Objects that run the control plane: ServiceAccount, ConfigMap, Service, Deployment and PodDisruptionBudget.

use kermode_crds::annotation;
use serde_json::{Value, json};

use crate::{Installation, NAME, labels, namespaced};

/// Environment variables that the Deployment sets from fields of the Pod: name and field path.
pub const POD_FIELD_VARIABLES: [(&str, &str); 2] = [
    ("POD_NAME", "metadata.name"),
    ("POD_NAMESPACE", "metadata.namespace"),
];

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
pub(crate) fn service_account(installation: &Installation) -> Value {
    json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": namespaced(NAME, installation)})
}

/// ConfigMap with the configuration file.
pub(crate) fn config_map(installation: &Installation, config: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": namespaced(CONFIG_MAP, installation),
        "data": {CONFIG_FILE: config},
    })
}

/// Service that proxies and the API server connect to.
pub(crate) fn service(installation: &Installation) -> Value {
    let ports: Vec<Value> = PORTS
        .iter()
        .map(|port| {
            json!({"name": port.service_name, "port": port.service_port, "targetPort": port.name, "protocol": "TCP"})
        })
        .collect();
    let mut spec = json!({"type": "ClusterIP", "ports": ports});
    // Without a Deployment, the control plane runs outside of the cluster, and the user creates an EndpointSlice.
    if installation.with_deployment {
        spec["selector"] = json!({"app": NAME});
    }
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": namespaced(NAME, installation),
        "spec": spec,
    })
}

/// Deployment of the control plane. The checksum of the configuration is an annotation of the Pod template, so a change
/// of the configuration replaces the Pods.
pub(crate) fn deployment(installation: &Installation, config: &str) -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": namespaced(NAME, installation),
        "spec": {
            "replicas": installation.replicas,
            "selector": {"matchLabels": {"app": NAME}},
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
            },
            "template": {
                "metadata": {"labels": pod_labels(), "annotations": {"checksum/config": checksum(config)}},
                "spec": pod_spec(installation),
            },
        },
    })
}

/// PodDisruptionBudget that allows the eviction of one replica at a time. `None` for a single replica, because the
/// budget would allow the eviction of the only replica.
pub(crate) fn disruption_budget(installation: &Installation) -> Option<Value> {
    (installation.replicas > 1).then(|| {
        json!({
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": namespaced(NAME, installation),
            "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app": NAME}}},
        })
    })
}

fn pod_labels() -> Value {
    let mut labels = labels();
    labels[annotation::SIDECAR_INJECTION] = "disabled".into();
    labels
}

fn pod_spec(installation: &Installation) -> Value {
    let mut spec = json!({
        "serviceAccountName": NAME,
        "securityContext": {
            "runAsNonRoot": true,
            "runAsUser": USER_AND_GROUP_ID,
            "runAsGroup": USER_AND_GROUP_ID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "terminationGracePeriodSeconds": 30,
        "containers": [container(installation)],
        "volumes": [{"name": "config", "configMap": {"name": CONFIG_MAP}}],
    });
    if !installation.image_pull_secrets.is_empty() {
        let secrets = installation.image_pull_secrets.iter();
        spec["imagePullSecrets"] = secrets.map(|name| json!({"name": name})).collect();
    }
    if installation.replicas > 1 {
        spec["topologySpreadConstraints"] = json!([
            spread("kubernetes.io/hostname"),
            spread("topology.kubernetes.io/zone"),
        ]);
    }
    spec
}

/// Constraint that spreads the replicas over the values of a node label, if possible.
fn spread(key: &str) -> Value {
    json!({
        "maxSkew": 1,
        "topologyKey": key,
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": {"app": NAME}},
    })
}

fn container(installation: &Installation) -> Value {
    let ports: Vec<Value> = PORTS
        .iter()
        .map(|port| json!({"name": port.name, "containerPort": port.container_port, "protocol": "TCP"}))
        .collect();
    json!({
        "name": "control-plane",
        "image": installation.images.control_plane,
        "imagePullPolicy": "IfNotPresent",
        "args": ["run", format!("--config-file={CONFIG_DIRECTORY}/{CONFIG_FILE}")],
        "env": environment(installation),
        "ports": ports,
        "livenessProbe": probe("/healthy", 10, 6),
        "readinessProbe": probe("/ready", 2, 3),
        "resources": {
            "requests": {"cpu": "100m", "memory": "64Mi"},
            "limits": {"memory": "512Mi"},
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

fn environment(installation: &Installation) -> Vec<Value> {
    let from_pod = POD_FIELD_VARIABLES
        .iter()
        .map(|(name, path)| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}));
    let from_installation = installation
        .environment
        .iter()
        .map(|(name, value)| json!({"name": name, "value": value}));
    from_pod.chain(from_installation).collect()
}

/// Checksum (FNV-1a, not cryptographic) of the configuration, to detect changes.
fn checksum(config: &str) -> String {
    let hash = config.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("{hash:016x}")
}
