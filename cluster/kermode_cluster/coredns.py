"""The Kubernetes objects that run CoreDNS as the cluster's DNS. Pure."""

from .addresses import DNS_SERVICE
from .configuration import corefile

NAMESPACE = "kube-system"
LABELS = {"k8s-app": "kube-dns"}


def objects(image: str, servers: list) -> list:
    """Returns (API path, object) of all objects to apply, in order."""
    core, apps = "/api/v1", "/apis/apps/v1"
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    namespaced = f"/namespaces/{NAMESPACE}"
    return [
        (f"{core}{namespaced}/serviceaccounts/coredns", service_account()),
        (f"{rbac}/clusterroles/system:coredns", cluster_role()),
        (f"{rbac}/clusterrolebindings/system:coredns", cluster_role_binding()),
        (f"{core}{namespaced}/configmaps/coredns", config_map(servers)),
        (f"{core}{namespaced}/services/kube-dns", service()),
        (f"{apps}{namespaced}/deployments/coredns", deployment(image)),
    ]


def service_account() -> dict:
    """ServiceAccount of CoreDNS."""
    return {"apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": "coredns", "namespace": NAMESPACE}}


def cluster_role() -> dict:
    """Rights of the kubernetes plugin, which watches these resources."""
    return {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": {"name": "system:coredns"},
            "rules": [
                {"apiGroups": [""], "resources": ["services", "namespaces"], "verbs": ["list", "watch"]},
                {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
            ]}


def cluster_role_binding() -> dict:
    """Binds the role to the ServiceAccount."""
    return {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": "system:coredns"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:coredns"},
            "subjects": [{"kind": "ServiceAccount", "name": "coredns", "namespace": NAMESPACE}]}


def config_map(servers: list) -> dict:
    """ConfigMap with the Corefile."""
    return {"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "coredns", "namespace": NAMESPACE},
            "data": {"Corefile": corefile(servers)}}


def service() -> dict:
    """Service whose address is in the resolv.conf of every Pod."""
    return {"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "kube-dns", "namespace": NAMESPACE, "labels": LABELS},
            "spec": {"clusterIP": DNS_SERVICE, "selector": LABELS, "ports": [
                {"name": "dns", "port": 53, "targetPort": 1053, "protocol": "UDP"},
                {"name": "dns-tcp", "port": 53, "targetPort": 1053, "protocol": "TCP"}]}}


def deployment(image: str) -> dict:
    """Deployment with one replica. Without privileges, it listens on port 1053 instead of the Service's port 53."""
    container = {
        "name": "coredns",
        "image": image,
        "imagePullPolicy": "Never",
        "args": ["-conf", "/etc/coredns/Corefile"],
        "ports": [{"name": "dns", "containerPort": 1053, "protocol": "UDP"},
                  {"name": "dns-tcp", "containerPort": 1053, "protocol": "TCP"}],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1},
        "livenessProbe": {"httpGet": {"path": "/health", "port": 8080}, "failureThreshold": 5},
        "resources": {"requests": {"cpu": "20m", "memory": "30Mi"}, "limits": {"memory": "170Mi"}},
        "securityContext": {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                            "runAsNonRoot": True, "runAsUser": 65532, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns", "readOnly": True}],
    }
    pod = {
        "serviceAccountName": "coredns",
        "priorityClassName": "system-cluster-critical",
        "dnsPolicy": "Default",
        "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoSchedule"}],
        "containers": [container],
        "volumes": [{"name": "config", "configMap": {"name": "coredns"}}],
    }
    return {"apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "coredns", "namespace": NAMESPACE, "labels": LABELS},
            "spec": {"replicas": 1, "selector": {"matchLabels": LABELS},
                     "template": {"metadata": {"labels": LABELS}, "spec": pod}}}
