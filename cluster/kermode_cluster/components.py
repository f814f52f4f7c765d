"""Programs of a cluster as data: command, dependencies and readiness check. Pure."""

from dataclasses import asdict, dataclass, field

from .addresses import API_PORT, SERVICES, Addresses


@dataclass
class Component:
    """A program that the node's supervisor runs."""

    name: str
    command: list
    # Names of the components that must be ready before this one is started.
    after: list = field(default_factory=list)
    # Readiness check: a URL that returns 200, or a unix socket that accepts connections. Without either, a program is
    # ready once it is started.
    url: str = None
    socket: str = None


def components(paths, addresses: Addresses, programs, api_only: bool, controllers: bool) -> list:
    """Returns the programs to run: etcd and the API server; if `controllers`, also the controller manager; unless
    `api_only`, also all others."""
    selected = [etcd(paths), api_server(paths, addresses, programs, service_accounts=controllers)]
    if controllers:
        selected.append(controller_manager(paths, addresses, programs))
    if not api_only:
        selected += [
            Component("containerd", ["containerd", "--config", f"{paths.config}/containerd.toml"],
                      socket="/run/containerd/containerd.sock"),
            scheduler(paths, programs),
            kubelet(paths, addresses, programs),
            kube_proxy(paths, addresses, programs),
        ]
    return [asdict(component) for component in selected]


def etcd(paths) -> Component:
    """etcd, without syncing to disk, because its data need not survive the cluster."""
    return Component("etcd", [
        "etcd", "--name=node", f"--data-dir={paths.root}/etcd", "--unsafe-no-fsync",
        "--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379",
        "--listen-peer-urls=http://127.0.0.1:2380", "--initial-advertise-peer-urls=http://127.0.0.1:2380",
        "--initial-cluster=node=http://127.0.0.1:2380", "--quota-backend-bytes=4294967296",
        "--log-level=warn", "--logger=zap",
    ], url="http://127.0.0.1:2379/health")


def api_server(paths, addresses: Addresses, programs, service_accounts: bool) -> Component:
    """API server. Without the controller manager, which creates service accounts, the admission plugin that requires a
    service account is off."""
    pki = paths.pki
    command = [
        f"{programs}/kube-apiserver",
        f"--advertise-address={addresses.node}", "--bind-address=0.0.0.0", f"--secure-port={API_PORT}",
        "--etcd-servers=http://127.0.0.1:2379",
        f"--service-cluster-ip-range={SERVICES}",
        f"--client-ca-file={pki}/ca.crt",
        f"--tls-cert-file={pki}/api-server.crt", f"--tls-private-key-file={pki}/api-server.key",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={pki}/service-account.pub",
        f"--service-account-signing-key-file={pki}/service-account.key",
        f"--requestheader-client-ca-file={pki}/front-proxy/ca.crt",
        "--requestheader-allowed-names=front-proxy-client", "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group", "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--proxy-client-cert-file={pki}/front-proxy/client.crt",
        f"--proxy-client-key-file={pki}/front-proxy/client.key",
        f"--kubelet-client-certificate={pki}/kubelet-client.crt",
        f"--kubelet-client-key={pki}/kubelet-client.key",
        "--kubelet-preferred-address-types=InternalIP",
        "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
    ]
    if not service_accounts:
        command.append("--disable-admission-plugins=ServiceAccount")
    return Component("kube-apiserver", command, after=["etcd"], url=f"https://127.0.0.1:{API_PORT}/readyz")


def controller_manager(paths, addresses: Addresses, programs) -> Component:
    """Controller manager, with garbage collection."""
    config = f"{paths.config}/kube-controller-manager.kubeconfig"
    return Component("kube-controller-manager", [
        f"{programs}/kube-controller-manager",
        f"--kubeconfig={config}", f"--authentication-kubeconfig={config}", f"--authorization-kubeconfig={config}",
        "--bind-address=127.0.0.1", "--leader-elect=false", "--use-service-account-credentials=true",
        f"--root-ca-file={paths.pki}/ca.crt",
        f"--service-account-private-key-file={paths.pki}/service-account.key",
        "--allocate-node-cidrs=true", f"--cluster-cidr={addresses.pods}", "--node-cidr-mask-size=24",
        f"--service-cluster-ip-range={SERVICES}",
    ], after=["kube-apiserver"], url="https://127.0.0.1:10257/healthz")


def scheduler(paths, programs) -> Component:
    """Scheduler."""
    config = f"{paths.config}/kube-scheduler.kubeconfig"
    return Component("kube-scheduler", [
        f"{programs}/kube-scheduler",
        f"--kubeconfig={config}", f"--authentication-kubeconfig={config}", f"--authorization-kubeconfig={config}",
        "--bind-address=127.0.0.1", "--leader-elect=false",
    ], after=["kube-apiserver"], url="https://127.0.0.1:10259/healthz")


def kubelet(paths, addresses: Addresses, programs) -> Component:
    """Kubelet."""
    return Component("kubelet", [
        f"{programs}/kubelet",
        f"--config={paths.config}/kubelet.json", f"--kubeconfig={paths.config}/kubelet.kubeconfig",
        f"--hostname-override={paths.node_name}", f"--node-ip={addresses.node}",
    ], after=["kube-apiserver", "containerd"], url="http://127.0.0.1:10248/healthz")


def kube_proxy(paths, addresses: Addresses, programs) -> Component:
    """kube-proxy. It does not set the connection-tracking limits, because they are read-only inside the node."""
    return Component("kube-proxy", [
        f"{programs}/kube-proxy",
        f"--kubeconfig={paths.config}/kube-proxy.kubeconfig", f"--hostname-override={paths.node_name}",
        "--proxy-mode=nftables", f"--cluster-cidr={addresses.pods}", "--oom-score-adj=0",
        "--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0s",
        "--conntrack-tcp-timeout-close-wait=0s",
    ], after=["kube-apiserver"], url="http://127.0.0.1:10256/livez")
