//! The control plane's own workload: ServiceAccount, configuration, Service, Deployment and disruption budget.

use kermode_crds::annotation;
use serde_json::{Value, json};

use super::env_var::FROM_POD;
use super::manifests::{NAME, labels, namespaced};
use super::settings::Settings;

const CONFIG_MAP: &str = "kuma-control-plane-config";
const CONFIG_DIRECTORY: &str = "/etc/kuma.io/kuma-control-plane";
const CONFIG_FILE: &str = "config.yaml";
/// User and group of the control plane, those of Kuma.
const UID: u32 = 5678;

/// A port of the control plane (BEHAVIOUR section 1).
struct Port {
    /// Name in the Pod, where 15 characters are the limit.
    name: &'static str,
    /// Name in the Service, that of Kuma.
    service_name: &'static str,
    /// Port of the Service.
    service: u16,
    /// Port of the container.
    container: u16,
}

const PORTS: [Port; 3] = [
    Port {
        name: "admission",
        service_name: "https-admission-server",
        service: 443,
        container: 5443,
    },
    Port {
        name: "dp-server",
        service_name: "dp-server",
        service: 5678,
        container: 5678,
    },
    Port {
        name: "diagnostics",
        service_name: "diagnostics",
        service: 5680,
        container: 5680,
    },
];

/// The identity the control plane's access rights are bound to.
pub(super) fn service_account(settings: &Settings) -> Value {
    json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": namespaced(NAME, settings)})
}

/// The configuration file.
pub(super) fn config_map(settings: &Settings, config: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": namespaced(CONFIG_MAP, settings),
        "data": {CONFIG_FILE: config},
    })
}

/// What proxies and the API server call.
pub(super) fn service(settings: &Settings) -> Value {
    let ports: Vec<Value> = PORTS
        .iter()
        .map(|port| {
            json!({"name": port.service_name, "port": port.service, "targetPort": port.name, "protocol": "TCP"})
        })
        .collect();
    let mut spec = json!({"type": "ClusterIP", "ports": ports});
    if settings.deployment {
        spec["selector"] = json!({"app": NAME});
    }
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": namespaced(NAME, settings),
        "spec": spec,
    })
}

/// The Pods of the control plane.
pub(super) fn deployment(settings: &Settings, config: &str) -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": namespaced(NAME, settings),
        "spec": {
            "replicas": settings.replicas,
            "selector": {"matchLabels": {"app": NAME}},
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
            },
            "template": {
                "metadata": {"labels": pod_labels(), "annotations": {"checksum/config": checksum(config)}},
                "spec": pod_spec(settings),
            },
        },
    })
}

/// Keeps one node's drain from taking several replicas; pointless for a single one, which it would pin to its node.
pub(super) fn disruption_budget(settings: &Settings) -> Option<Value> {
    (settings.replicas > 1).then(|| {
        json!({
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": namespaced(NAME, settings),
            "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app": NAME}}},
        })
    })
}

fn pod_labels() -> Value {
    let mut labels = labels();
    labels[annotation::SIDECAR_INJECTION] = "disabled".into();
    labels
}

fn pod_spec(settings: &Settings) -> Value {
    let mut spec = json!({
        "serviceAccountName": NAME,
        "securityContext": {
            "runAsNonRoot": true,
            "runAsUser": UID,
            "runAsGroup": UID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "terminationGracePeriodSeconds": 30,
        "containers": [container(settings)],
        "volumes": [{"name": "config", "configMap": {"name": CONFIG_MAP}}],
    });
    if settings.replicas > 1 {
        spec["topologySpreadConstraints"] = json!([
            spread("kubernetes.io/hostname"),
            spread("topology.kubernetes.io/zone"),
        ]);
    }
    spec
}

fn spread(key: &str) -> Value {
    json!({
        "maxSkew": 1,
        "topologyKey": key,
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": {"app": NAME}},
    })
}

fn container(settings: &Settings) -> Value {
    let ports: Vec<Value> = PORTS
        .iter()
        .map(|port| json!({"name": port.name, "containerPort": port.container, "protocol": "TCP"}))
        .collect();
    json!({
        "name": "control-plane",
        "image": settings.images.control_plane,
        "imagePullPolicy": "IfNotPresent",
        "args": ["run", format!("--config-file={CONFIG_DIRECTORY}/{CONFIG_FILE}")],
        "env": environment(settings),
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

fn probe(path: &str, period_seconds: u32, failures: u32) -> Value {
    json!({
        "httpGet": {"path": path, "port": "diagnostics"},
        "periodSeconds": period_seconds,
        "timeoutSeconds": 3,
        "failureThreshold": failures,
    })
}

fn environment(settings: &Settings) -> Vec<Value> {
    let from_pod = FROM_POD
        .iter()
        .map(|(name, path)| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}));
    let given = settings
        .environment
        .iter()
        .map(|(name, value)| json!({"name": name, "value": value}));
    from_pod.chain(given).collect()
}

/// Changes when the configuration changes, so that applying a new one replaces the Pods. FNV-1a: it has to notice
/// changes, not to resist anybody.
fn checksum(config: &str) -> String {
    let hash = config.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("{hash:016x}")
}
