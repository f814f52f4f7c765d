"""Brings a cluster up: preflight checks, builds, configuration, node, and the wait until it works."""

import os
import shutil
import time
from pathlib import Path

from . import addresses, archives, build, cgroups, configuration, coredns, down, files, hostnet, node, paths
from . import preflight, status
from .api import Api
from .certificates import Authority, api_server_names, service_account_keys
from .components import components
from .errors import ClusterError
from .processes import wait_until

PLUGINS = Path("/usr/lib/cni")
RESOLV_CONFS = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))
DEADLINE = 120


def up(name: str, api_only: bool = False, controllers: bool = True) -> None:
    """Brings a cluster up unless it is up. Removes a cluster that fails to start."""
    place = paths.ClusterPaths(name)
    preflight.check(api_only)
    with files.locked(place.lock):
        if place.root.exists():
            if status.healthy(place):
                print(f"cluster {name} is up")
                status.explain(place)
                return
            print(f"cluster {name} is not healthy: taking it down first")
            down.remove(place)
        programs = build.kubernetes()
        images = {} if api_only else archives.system_images()
        start_time = time.monotonic()
        try:
            start(place, programs, images, api_only, controllers)
        except BaseException as error:
            logs = failed_logs(place)
            try:
                down.remove(place)
            except ClusterError as second:
                logs += f"\nthe removal of the cluster also failed: {second}"
            if isinstance(error, ClusterError):
                raise ClusterError(f"{error}\n{logs}") from error
            raise
    print(f"cluster {name} is up after {time.monotonic() - start_time:.1f} s")
    status.explain(place)


def start(place, programs: Path, images: dict, api_only: bool, controllers: bool) -> None:
    """Writes the cluster's files, starts its node, and waits until it works."""
    chosen = reserve(place, api_only)
    mtu = hostnet.uplink_mtu()
    servers = usable_name_servers()
    configure(place, chosen, programs, images, mtu, servers)
    files.write_json(place.spec, components(place, chosen, programs, api_only, controllers))
    if not api_only:
        cgroups.create(place.cgroup)
    node.start(place, lambda pid: hostnet.connect(place.name, chosen, pid, mtu))
    api = Api(place.kubeconfig)
    if not api_only:
        wait(place, "containerd", lambda: ready(place, "containerd"))
        archives.load(place, images.values())
    wait(place, "the API server", api.healthy)
    if api_only:
        wait(place, "every component", lambda: all_ready(place))
        return
    for path, body in coredns.objects(images["coredns"][0], servers):
        wait(place, path, lambda path=path, body=body: applied(api, path, body))
    wait(place, "the node to be Ready", lambda: api.condition(f"/api/v1/nodes/{place.node_name}", "Ready"))
    wait(place, "CoreDNS to be available",
         lambda: api.condition("/apis/apps/v1/namespaces/kube-system/deployments/coredns", "Available"))
    wait(place, "the default service account", lambda: found(api, "/api/v1/namespaces/default/serviceaccounts/default"))
    wait(place, "every component", lambda: all_ready(place))


def reserve(place, api_only: bool) -> addresses.Addresses:
    """Selects the number of the cluster and records it before its first use."""
    with files.locked(paths.cache() / "locks" / "addresses.lock"):
        reserved = {(files.read_json(paths.ClusterPaths(other).settings) or {}).get("number")
                    for other in paths.all_clusters()}
        chosen = addresses.free(*addresses.taken(), reserved)
        place.root.mkdir(parents=True)
        files.write_json(place.settings, {
            "name": place.name, "number": chosen.number, "api_only": api_only,
            "server": chosen.api_url, "host": chosen.host, "node": chosen.node,
            "pods": chosen.pods, "services": addresses.SERVICES,
        })
    return chosen


def configure(place, chosen, programs: Path, images: dict, mtu: int, servers: list) -> None:
    """Writes certificates, kubeconfigs, configuration files, and the node's files below /etc and /opt."""
    authority = Authority(place.pki)
    authority.create()
    service_account_keys(place.pki)
    authority.issue("api-server", "/CN=kube-apiserver", api_server_names(chosen))
    authority.issue("kubelet-client", "/O=system:masters/CN=kube-apiserver-kubelet-client")
    front_proxy = Authority(place.pki / "front-proxy")
    front_proxy.create()
    front_proxy.issue("client", "/CN=front-proxy-client")
    place.config.mkdir()
    users = {
        "kube-controller-manager": "/CN=system:kube-controller-manager",
        "kube-scheduler": "/CN=system:kube-scheduler",
        "kube-proxy": "/CN=system:kube-proxy",
        "kubelet": f"/O=system:nodes/CN=system:node:{place.node_name}",
    }
    for user, subject in users.items():
        authority.kubeconfig(place.config / f"{user}.kubeconfig", place.name, chosen.api_url, subject)
    authority.kubeconfig(place.kubeconfig, place.name, chosen.api_url, "/O=system:masters/CN=admin")
    files.write(place.config / "kubelet.json",
                configuration.kubelet(place.cgroup, str(authority.certificate)))
    if images:
        files.write(place.config / "containerd.toml", configuration.containerd(images["pause"][0]))
    place.bin.mkdir()
    (place.bin / "kubectl").symlink_to(programs / "kubectl")
    etc, opt = place.overlay("/etc"), place.overlay("/opt")
    files.write(etc / "resolv.conf", "".join(f"nameserver {server}\n" for server in servers))
    files.write(etc / "cni" / "net.d" / "10-kermode.conflist", configuration.network(chosen, mtu))
    opaque(etc / "cni")
    plugins = opt / "cni" / "bin"
    plugins.mkdir(parents=True)
    opaque(opt / "cni")
    for plugin in PLUGINS.iterdir() if PLUGINS.is_dir() else ():
        (plugins / plugin.name).symlink_to(plugin)


def opaque(folder: Path) -> None:
    """Hides the host's folder of this name: its CNI configurations do not apply to this node."""
    os.setxattr(folder, "trusted.overlay.opaque", b"y")


def usable_name_servers() -> list:
    """Returns the host's name servers that Pods can use."""
    for path in RESOLV_CONFS:
        if path.exists():
            servers = configuration.name_servers(path.read_text(encoding="utf-8"))
            if servers:
                return servers
    return []


def applied(api: Api, path: str, body: dict) -> bool:
    """Applies an object. Returns False while the server is not ready for it."""
    try:
        api.apply(path, body)
        return True
    except (OSError, ClusterError) as error:
        if " 4" in str(error) and "404" not in str(error) and "403" not in str(error):
            raise
        return False


def found(api: Api, path: str) -> bool:
    """Whether an object exists."""
    try:
        api.get(path)
        return True
    except (OSError, ClusterError):
        return False


def ready(place, component: str) -> bool:
    """Whether the supervisor reports a component as ready."""
    return ((files.read_json(place.state) or {}).get(component) or {}).get("ready", False)


def all_ready(place) -> bool:
    """Whether all components are ready."""
    state = files.read_json(place.state) or {}
    return bool(state) and all(component["ready"] for component in state.values())


def wait(place, condition_name: str, condition) -> None:
    """Waits for a condition. Fails when the node ends or a component keeps failing."""
    def outcome():
        if node.identity(place) is None:
            raise ClusterError(f"the node ended while waiting for {condition_name}")
        for name, state in (files.read_json(place.state) or {}).items():
            if state["restarts"] >= 3:
                raise ClusterError(f"{name} failed {state['restarts']} times (exit code {state['exit_code']})")
        return condition()
    if not wait_until(outcome, seconds=DEADLINE, interval=0.1):
        raise ClusterError(f"timed out after {DEADLINE} s waiting for {condition_name}")


def failed_logs(place) -> str:
    """Returns the last log lines of components that failed or are not ready."""
    state = files.read_json(place.state) or {}
    failed = [name for name, report in state.items() if report["restarts"] or not report["ready"]] or ["supervisor"]
    kept = paths.cache() / "failed" / place.name
    shutil.rmtree(kept, ignore_errors=True)
    if place.logs.is_dir():
        shutil.copytree(place.logs, kept)
    parts = [f"--- end of {name}.log\n{files.tail(kept / f'{name}.log')}" for name in failed]
    return "\n".join(parts + [f"all logs: {kept}"])
