//! Objects that install the CNI plugin on each node: ServiceAccount, roles and DaemonSet
//! (`docs/reference/transparent-proxying.md#installer`).
//!
//! They are in `kube-system`, because the control plane's namespace enforces Pod Security *restricted*, which forbids
//! folders of the node.

use kermode_crds::annotation;
use serde_json::{Value, json};

use crate::template::{
    ObjectTemplate, either, extend, image, image_pull_secrets, is_set, namespace, only_if, option, text,
    without_slash,
};
use crate::{field_ref, labels};

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
pub(crate) fn all() -> Vec<ObjectTemplate> {
    let objects = [
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
        daemon_set(),
    ];
    let of_enabled = |object| ObjectTemplate::conditional(is_set("cni.enabled"), object);
    objects.map(of_enabled).into()
}

fn own_labels() -> Value {
    let mut labels = labels();
    labels["app"] = NAME.into();
    labels
}

fn namespaced() -> Value {
    json!({"name": NAME, "namespace": NAMESPACE, "labels": own_labels()})
}

fn daemon_set() -> Value {
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
                "spec": pod_spec(),
            },
        },
    })
}

fn pod_spec() -> Value {
    let mut spec = json!({
        "serviceAccountName": NAME,
        // The token below is valid for a shorter time than the one that Kubernetes mounts.
        "automountServiceAccountToken": false,
        // The installer must start before the network of Pods works.
        "hostNetwork": true,
        "priorityClassName": "system-node-critical",
        "tolerations": [{"operator": "Exists"}],
        "nodeSelector": option("cni.nodeSelector"),
        "terminationGracePeriodSeconds": 15,
        "containers": [container()],
        "volumes": volumes(),
    });
    extend(&mut spec, image_pull_secrets());
    spec
}

fn container() -> Value {
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": field_ref(path)}});
    let mount = |name: &str, path: Value| json!({"name": name, "mountPath": path});
    let of_node = |name: &str, path: &str| mount(name, format!("{NODE_ROOT}{path}").into());
    let of_option = |name: &str, path: Value| mount(name, text([NODE_ROOT.into(), path]));
    let mut network_namespaces = of_node("network-namespaces", NETWORK_NAMESPACES);
    // The container runtime mounts a file for each Pod, also after the start of the installer.
    network_namespaces["mountPropagation"] = "HostToContainer".into();
    let mut results = of_node("results", RESULTS);
    results["readOnly"] = true.into();
    json!({
        "name": NAME,
        "image": image("cni.image"),
        "imagePullPolicy": "IfNotPresent",
        "args": arguments(),
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
            of_option("networks", network_folder()),
            of_option("programs", program_folder()),
            network_namespaces,
            results,
            {"name": "credentials", "mountPath": CREDENTIALS, "readOnly": true},
            {"name": "state", "mountPath": STATE_FOLDER},
        ],
    })
}

/// Folder of the nodes with network configurations.
fn network_folder() -> Value {
    folder("cni.netDir", "/etc/cni/net.d", "/etc/cni/multus/net.d")
}

/// Folder of the nodes with plugins.
fn program_folder() -> Value {
    folder("cni.binDir", "/opt/cni/bin", "/var/lib/cni/bin")
}

/// The folder of an option, with its defaults for a plugin that is chained and for one that is not.
fn folder(path: &str, chained: &str, not_chained: &str) -> Value {
    let default = either(is_set("cni.chained"), chained.into(), not_chained.into());
    either(is_set(path), without_slash(path), default)
}

fn arguments() -> Vec<Value> {
    let argument = |flag: &str, value: Value| text([format!("--{flag}=").into(), value]);
    let network_name = "cni.confName";
    vec![
        "install".into(),
        argument("cni-net-dir", network_folder()),
        argument("cni-bin-dir", program_folder()),
        argument("cni-chained", option("cni.chained")),
        format!("--node-root={NODE_ROOT}").into(),
        format!("--tools={TOOLS}").into(),
        // Pods of these namespaces start while the installer or the API server is away.
        format!("--exclude-namespace={NAMESPACE}").into(),
        argument("exclude-namespace", namespace()),
        only_if(
            is_set(network_name),
            argument("cni-conf-name", option(network_name)),
        ),
    ]
}

fn volumes() -> Value {
    let of_node = |name: &str, path: Value| json!({"name": name, "hostPath": {"path": path, "type": "DirectoryOrCreate"}});
    json!([
        of_node("networks", network_folder()),
        of_node("programs", program_folder()),
        of_node("network-namespaces", NETWORK_NAMESPACES.into()),
        of_node("results", RESULTS.into()),
        {
            "name": "credentials",
            "projected": {
                "defaultMode": 0o400,
                "sources": [
                    {"serviceAccountToken": {"path": "token", "expirationSeconds": TOKEN_SECONDS}},
                    {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                    {
                        "downwardAPI": {
                            "items": [{"path": "namespace", "fieldRef": field_ref("metadata.namespace")}],
                        },
                    },
                ],
            },
        },
        {"name": "state", "emptyDir": {"medium": "Memory"}},
    ])
}
