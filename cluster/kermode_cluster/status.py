"""State of a cluster, for users and for `up`."""

import shutil

from . import files, node, paths
from .api import Api
from .errors import ClusterError


def is_healthy(cluster: paths.ClusterPaths) -> bool:
    """Whether a cluster works: the node runs, components are ready, the API server responds, the Node is Ready."""
    settings, state = files.read_json(cluster.settings), files.read_json(cluster.state)
    if not settings or not state or node.init_process(cluster) is None:
        return False
    if not all(component["ready"] for component in state.values()):
        return False
    api = Api(cluster.kubeconfig)
    if settings["api_only"]:
        return api.is_ready()
    return api.is_ready() and api.has_condition(f"/api/v1/nodes/{cluster.node_name}", "Ready")


def print_usage(cluster: paths.ClusterPaths) -> None:
    """Prints how to use a running cluster."""
    print(f"  export KUBECONFIG={cluster.kubeconfig}")
    if shutil.which("kubectl"):
        print(f"  kubectl of the same version: {cluster.bin / 'kubectl'}")
    else:
        print(f"  export PATH={cluster.bin}:$PATH   # contains kubectl")


def show(name: str) -> int:
    """Prints the state of a cluster. Returns 0 when it is healthy."""
    cluster = paths.ClusterPaths(name)
    settings = files.read_json(cluster.settings)
    if settings is None:
        print(f"cluster {name}: down")
        return 1
    init = node.init_process(cluster)
    healthy = is_healthy(cluster)
    print(f"cluster {name}: {'healthy' if healthy else 'not healthy' if init else 'crashed (up repairs it)'}")
    for key in ("server", "node", "host", "pods", "services"):
        print(f"  {key:10}{settings[key]}")
    if init is not None:
        inside = node.processes(init)
        print(f"  {len(inside)} processes, {node.memory(inside) / 2**20:.0f} MiB; process 1 has pid {init.pid}")
        for component, state in (files.read_json(cluster.state) or {}).items():
            note = f", restarted {state['restarts']} times" if state["restarts"] else ""
            print(f"  {component:25}{'ready' if state['ready'] else 'not ready'}{note}")
    print_usage(cluster)
    return 0 if healthy else 1


def require_running(name: str) -> paths.ClusterPaths:
    """Returns the paths of a running cluster; raises ClusterError when it does not run."""
    cluster = paths.ClusterPaths(name)
    if node.init_process(cluster) is None:
        raise ClusterError(f"cluster {name} is not running: make cluster-up CLUSTER={name}")
    return cluster
