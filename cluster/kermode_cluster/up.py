"""Brings a cluster up: preflight checks, builds, configuration, node, and the wait until it works."""

import os
import shutil
import time
from pathlib import Path

from . import addresses, archives, build, cgroups, configuration, coredns, down, files, hostnet, kernel, node
from . import paths, preflight, status
from .api import Api
from .certificates import Authority, api_server_names, service_account_keys
from .components import components
from .errors import ClusterError
from .processes import wait_until

# CNI plugins of the host's Debian package.
HOST_PLUGINS = Path("/usr/lib/cni")
RESOLV_CONFS = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))
# Timeout of each condition that `up` waits for.
TIMEOUT_SECONDS = 120


def up(name: str, api_only: bool = False, controllers: bool = True) -> None:
    """Brings a cluster up, or does nothing when it is healthy. Removes a cluster that fails to start."""
    cluster = paths.ClusterPaths(name)
    preflight.check(api_only)
    with files.locked(cluster.lock):
        if cluster.root.exists():
            if status.is_healthy(cluster):
                print(f"cluster {name} is up")
                status.print_usage(cluster)
                return
            print(f"cluster {name} is not healthy: taking it down first")
            down.remove(cluster)
        programs = build.kubernetes()
        images = {} if api_only else archives.system_images()
        start_time = time.monotonic()
        try:
            start(cluster, programs, images, api_only, controllers)
        except BaseException as error:
            logs = failed_logs(cluster)
            try:
                down.remove(cluster)
            except ClusterError as removal_error:
                logs += f"\nthe removal of the cluster also failed: {removal_error}"
            if isinstance(error, ClusterError):
                raise ClusterError(f"{error}\n{logs}") from error
            raise
    print(f"cluster {name} is up after {time.monotonic() - start_time:.1f} s")
    status.print_usage(cluster)


def start(cluster, programs: Path, images: dict, api_only: bool, controllers: bool) -> None:
    """Writes the cluster's files, starts its node, and waits until it works."""
    cluster_addresses = reserve(cluster, api_only)
    mtu = hostnet.uplink_mtu()
    servers = usable_name_servers()
    configure(cluster, cluster_addresses, programs, images, mtu, servers)
    files.write_json(cluster.spec, components(cluster, cluster_addresses, programs, api_only, controllers))
    kernel.raise_to(kernel.MINIMA)
    if not api_only:
        cgroups.create(cluster.cgroup)
    node.start(cluster, lambda pid: hostnet.connect(cluster.name, cluster_addresses, pid, mtu))
    api = Api(cluster.kubeconfig)
    if not api_only:
        wait_for(cluster, "containerd", lambda: is_ready(cluster, "containerd"))
        archives.load(cluster, images.values())
    wait_for(cluster, "the API server", api.is_ready)
    if api_only:
        wait_for(cluster, "every component", lambda: all_components_ready(cluster))
        return
    for path, body in coredns.objects(images["coredns"][0], servers):
        wait_for(cluster, path, lambda path=path, body=body: try_apply(api, path, body))
    wait_for(cluster, "the node to be Ready", lambda: api.has_condition(f"/api/v1/nodes/{cluster.node_name}", "Ready"))
    wait_for(cluster, "CoreDNS to be available",
             lambda: api.has_condition("/apis/apps/v1/namespaces/kube-system/deployments/coredns", "Available"))
    wait_for(cluster, "the default service account",
             lambda: exists(api, "/api/v1/namespaces/default/serviceaccounts/default"))
    wait_for(cluster, "every component", lambda: all_components_ready(cluster))


def reserve(cluster, api_only: bool) -> addresses.Addresses:
    """Selects the number of the cluster, and records it so that no other cluster selects it. Returns the addresses."""
    with files.locked(paths.cache() / "locks" / "addresses.lock"):
        used_numbers = {(files.read_json(paths.ClusterPaths(other).settings) or {}).get("number")
                        for other in paths.all_clusters()}
        cluster_addresses = addresses.first_free(*addresses.networks_and_interfaces_in_use(), used_numbers)
        cluster.root.mkdir(parents=True)
        files.write_json(cluster.settings, {
            "name": cluster.name, "number": cluster_addresses.number, "api_only": api_only,
            "server": cluster_addresses.api_url, "host": cluster_addresses.host, "node": cluster_addresses.node,
            "pods": cluster_addresses.pods, "services": addresses.SERVICES,
        })
    return cluster_addresses


def configure(cluster, cluster_addresses, programs: Path, images: dict, mtu: int, servers: list) -> None:
    """Writes certificates, kubeconfigs, configuration files, and the node's files below /etc and /opt."""
    authority = Authority(cluster.pki)
    authority.create()
    service_account_keys(cluster.pki)
    authority.issue("api-server", "/CN=kube-apiserver", api_server_names(cluster_addresses))
    authority.issue("kubelet-client", "/O=system:masters/CN=kube-apiserver-kubelet-client")
    front_proxy = Authority(cluster.pki / "front-proxy")
    front_proxy.create()
    front_proxy.issue("client", "/CN=front-proxy-client")
    cluster.config.mkdir()
    users = {
        "kube-controller-manager": "/CN=system:kube-controller-manager",
        "kube-scheduler": "/CN=system:kube-scheduler",
        "kube-proxy": "/CN=system:kube-proxy",
        "kubelet": f"/O=system:nodes/CN=system:node:{cluster.node_name}",
    }
    for user, subject in users.items():
        authority.kubeconfig(cluster.config / f"{user}.kubeconfig", cluster.name, cluster_addresses.api_url, subject)
    authority.kubeconfig(cluster.kubeconfig, cluster.name, cluster_addresses.api_url, "/O=system:masters/CN=admin")
    files.write(cluster.config / "kubelet.json",
                configuration.kubelet(cluster.cgroup, str(authority.certificate)))
    if images:
        files.write(cluster.config / "containerd.toml", configuration.containerd(images["pause"][0]))
    cluster.bin.mkdir()
    (cluster.bin / "kubectl").symlink_to(programs / "kubectl")
    etc, opt = cluster.overlay("/etc"), cluster.overlay("/opt")
    files.write(etc / "resolv.conf", "".join(f"nameserver {server}\n" for server in servers))
    files.write(etc / "cni" / "net.d" / "10-kermode.conflist", configuration.cni_network(cluster_addresses, mtu))
    opaque(etc / "cni")
    plugins = opt / "cni" / "bin"
    plugins.mkdir(parents=True)
    opaque(opt / "cni")
    for plugin in HOST_PLUGINS.iterdir() if HOST_PLUGINS.is_dir() else ():
        (plugins / plugin.name).symlink_to(plugin)


def opaque(folder: Path) -> None:
    """Hides the host's folder below this folder of an overlay: the host's CNI files do not apply to this node."""
    os.setxattr(folder, "trusted.overlay.opaque", b"y")


def usable_name_servers() -> list:
    """Returns the host's name servers that Pods can use."""
    for path in RESOLV_CONFS:
        if path.exists():
            servers = configuration.name_servers(path.read_text(encoding="utf-8"))
            if servers:
                return servers
    return []


def try_apply(api: Api, path: str, body: dict) -> bool:
    """Applies an object. Returns False while the server is not ready for it."""
    try:
        api.apply(path, body)
        return True
    except (OSError, ClusterError) as error:
        # A 4xx status shows that the object is wrong, except 403 and 404, which a starting API server returns as well.
        if " 4" in str(error) and "404" not in str(error) and "403" not in str(error):
            raise
        return False


def exists(api: Api, path: str) -> bool:
    """Whether an object exists."""
    try:
        api.get(path)
        return True
    except (OSError, ClusterError):
        return False


def is_ready(cluster, component: str) -> bool:
    """Whether the supervisor reports a component as ready."""
    return ((files.read_json(cluster.state) or {}).get(component) or {}).get("ready", False)


def all_components_ready(cluster) -> bool:
    """Whether all components are ready."""
    state = files.read_json(cluster.state) or {}
    return bool(state) and all(component["ready"] for component in state.values())


def wait_for(cluster, condition_name: str, condition) -> None:
    """Waits for a condition. Raises ClusterError when the node ends or a component has failed three times."""
    def outcome():
        if node.init_process(cluster) is None:
            raise ClusterError(f"the node ended while waiting for {condition_name}")
        for name, state in (files.read_json(cluster.state) or {}).items():
            if state["restarts"] >= 3:
                raise ClusterError(f"{name} failed {state['restarts']} times (exit code {state['exit_code']})")
        return condition()
    if not wait_until(outcome, seconds=TIMEOUT_SECONDS, interval=0.1):
        raise ClusterError(f"timed out after {TIMEOUT_SECONDS} s waiting for {condition_name}")


def failed_logs(cluster) -> str:
    """Keeps a copy of all logs. Returns the last log lines of components that failed or are not ready."""
    state = files.read_json(cluster.state) or {}
    failed = [name for name, report in state.items() if report["restarts"] or not report["ready"]] or ["supervisor"]
    kept = paths.cache() / "failed" / cluster.name
    shutil.rmtree(kept, ignore_errors=True)
    if cluster.logs.is_dir():
        shutil.copytree(cluster.logs, kept)
    parts = [f"--- end of {name}.log\n{files.tail(kept / f'{name}.log')}" for name in failed]
    return "\n".join(parts + [f"all logs: {kept}"])
