//! Objects that install the CNI plugin on each node: ServiceAccount, roles and DaemonSet
//! (`docs/reference/transparent-proxying.md#installer`).
//!
//! They are in `kube-system`, because the control plane's namespace enforces Pod Security *restricted*, which forbids
//! folders of the node.

use kermode_crds::annotation;
use serde_json::{Value, json};

use crate::{Cni, Installation, labels};

/// Name of all objects, and of the plugin.
const NAME: &str = "kuma-cni";

/// Namespace of the installer.
const NAMESPACE: &str = "kube-system";

/// Folder in the image with `nft` and its libraries.
const TOOLS: &str = "/opt/kuma-cni";

/// Folder at which the installer sees folders of the node.
const NODE_ROOT: &str = "/host";

/// Folder of the node with the network namespaces of Pods.
const NETWORK_NAMESPACES: &str = "/run/netns";

/// Folder of the node in which the container runtime records the networks of Pods.
const RESULTS: &str = "/var/lib/cni/results";

/// Folder with the state of the installer.
const STATE_FOLDER: &str = "/run/kuma-cni";

/// Folder with the token and the API server's roots.
const CREDENTIALS: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Lifetime of the token that the plugin uses. The kubelet renews it after 4/5 of this time.
const TOKEN_SECONDS: u32 = 3600;

/// Returns all objects; none if the plugin is not installed.
pub(crate) fn all(installation: &Installation) -> Vec<Value> {
    let Some(cni) = &installation.cni else {
        return Vec::new();
    };
    vec![
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": namespaced()}),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": NAME, "labels": own_labels()},
            "rules": [
                // The plugin gets the Pod that starts. The installer watches the Pods of its node.
                {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]},
                // Events about the installer and about repaired Pods.
                {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch"]},
            ],
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": NAME, "labels": own_labels()},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": NAME},
            "subjects": [{"kind": "ServiceAccount", "name": NAME, "namespace": NAMESPACE}],
        }),
        daemon_set(installation, cni),
    ]
}

fn own_labels() -> Value {
    let mut labels = labels();
    labels["app"] = NAME.into();
    labels
}

fn namespaced() -> Value {
    json!({"name": NAME, "namespace": NAMESPACE, "labels": own_labels()})
}

fn daemon_set(installation: &Installation, cni: &Cni) -> Value {
    let mut pod_labels = own_labels();
    pod_labels[annotation::SIDECAR_INJECTION] = "disabled".into();
    json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": namespaced(),
        "spec": {
            "selector": {"matchLabels": {"app": NAME}},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}},
            "template": {
                "metadata": {"labels": pod_labels},
                "spec": pod_spec(installation, cni),
            },
        },
    })
}

fn pod_spec(installation: &Installation, cni: &Cni) -> Value {
    let mut spec = json!({
        "serviceAccountName": NAME,
        // The token below is valid for a shorter time than the one that Kubernetes mounts.
        "automountServiceAccountToken": false,
        // The installer must start before the network of Pods works.
        "hostNetwork": true,
        "priorityClassName": "system-node-critical",
        "tolerations": [{"operator": "Exists"}],
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "terminationGracePeriodSeconds": 15,
        "containers": [container(installation, cni)],
        "volumes": volumes(cni),
    });
    if !installation.image_pull_secrets.is_empty() {
        let secrets = installation.image_pull_secrets.iter();
        spec["imagePullSecrets"] = secrets.map(|name| json!({"name": name})).collect();
    }
    spec
}

fn container(installation: &Installation, cni: &Cni) -> Value {
    let field =
        |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let mount = |name: &str, path: &str| json!({"name": name, "mountPath": format!("{NODE_ROOT}{path}")});
    let mut network_namespaces = mount("network-namespaces", NETWORK_NAMESPACES);
    // The container runtime mounts a file for each Pod, also after the start of the installer.
    network_namespaces["mountPropagation"] = "HostToContainer".into();
    let mut results = mount("results", RESULTS);
    results["readOnly"] = true.into();
    json!({
        "name": NAME,
        "image": cni.image,
        "imagePullPolicy": "IfNotPresent",
        "args": arguments(installation, cni),
        "env": [
            field("NODE_NAME", "spec.nodeName"),
            field("POD_NAME", "metadata.name"),
            field("POD_NAMESPACE", "metadata.namespace"),
            field("POD_UID", "metadata.uid"),
        ],
        "readinessProbe": {
            "exec": {"command": ["/usr/bin/kuma-cni", "ready"]},
            "periodSeconds": 5,
            "timeoutSeconds": 5,
            "failureThreshold": 1,
        },
        "resources": {
            // On a busy node, the CPU request is the installer's share of the CPU, and Pods that started without the plugin
            // wait for the installer. The value is that of Kuma's chart.
            "requests": {"cpu": "100m", "memory": "32Mi"},
            "limits": {"memory": "256Mi"},
        },
        // NET_ADMIN and SYS_ADMIN: rules in the network namespaces of Pods. DAC_OVERRIDE: folders of the node that belong to
        // another user.
        "securityContext": {
            "runAsUser": 0,
            "runAsGroup": 0,
            "capabilities": {"drop": ["ALL"], "add": ["DAC_OVERRIDE", "NET_ADMIN", "SYS_ADMIN"]},
            "readOnlyRootFilesystem": true,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [
            mount("networks", &cni.network_folder),
            mount("programs", &cni.program_folder),
            network_namespaces,
            results,
            {"name": "credentials", "mountPath": CREDENTIALS, "readOnly": true},
            {"name": "state", "mountPath": STATE_FOLDER},
        ],
    })
}

fn arguments(installation: &Installation, cni: &Cni) -> Vec<String> {
    let mut arguments = vec![
        "install".to_owned(),
        format!("--cni-net-dir={}", cni.network_folder),
        format!("--cni-bin-dir={}", cni.program_folder),
        format!("--cni-chained={}", cni.is_chained),
        format!("--node-root={NODE_ROOT}"),
        format!("--tools={TOOLS}"),
        // Pods of these namespaces start while the installer or the API server is away.
        format!("--exclude-namespace={NAMESPACE}"),
        format!("--exclude-namespace={}", installation.namespace),
    ];
    arguments.extend(
        cni.network_name
            .iter()
            .map(|name| format!("--cni-conf-name={name}")),
    );
    arguments
}

fn volumes(cni: &Cni) -> Value {
    let of_node = |name: &str, path: &str| json!({"name": name, "hostPath": {"path": path, "type": "DirectoryOrCreate"}});
    json!([
        of_node("networks", &cni.network_folder),
        of_node("programs", &cni.program_folder),
        of_node("network-namespaces", NETWORK_NAMESPACES),
        of_node("results", RESULTS),
        {
            "name": "credentials",
            "projected": {
                "defaultMode": 0o400,
                "sources": [
                    {"serviceAccountToken": {"path": "token", "expirationSeconds": TOKEN_SECONDS}},
                    {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                    {
                        "downwardAPI": {
                            "items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}],
                        },
                    },
                ],
            },
        },
        {"name": "state", "emptyDir": {"medium": "Memory"}},
    ])
}
