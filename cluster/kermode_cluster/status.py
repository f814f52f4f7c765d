"""State of a cluster, for users and for `up`."""

import shutil

from . import files, node, paths
from .api import Api
from .errors import ClusterError


def healthy(place: paths.ClusterPaths) -> bool:
    """Whether a cluster works: the node runs, components are ready, the API server responds, the Node is Ready."""
    settings, state = files.read_json(place.settings), files.read_json(place.state)
    if not settings or not state or node.identity(place) is None:
        return False
    if not all(component["ready"] for component in state.values()):
        return False
    api = Api(place.kubeconfig)
    if settings["api_only"]:
        return api.healthy()
    return api.healthy() and api.condition(f"/api/v1/nodes/{place.node_name}", "Ready")


def explain(place: paths.ClusterPaths) -> None:
    """Prints how to use a running cluster."""
    print(f"  export KUBECONFIG={place.kubeconfig}")
    if shutil.which("kubectl"):
        print(f"  kubectl of the same version: {place.bin / 'kubectl'}")
    else:
        print(f"  export PATH={place.bin}:$PATH   # contains kubectl")


def show(name: str) -> int:
    """Prints the state of a cluster. Returns 0 when it is healthy."""
    place = paths.ClusterPaths(name)
    settings = files.read_json(place.settings)
    if settings is None:
        print(f"cluster {name}: down")
        return 1
    init = node.identity(place)
    is_healthy = healthy(place)
    print(f"cluster {name}: {'healthy' if is_healthy else 'not healthy' if init else 'crashed (up repairs it)'}")
    for key in ("server", "node", "host", "pods", "services"):
        print(f"  {key:10}{settings[key]}")
    if init is not None:
        inside = node.processes(init)
        print(f"  processes {len(inside)}, {node.memory(inside) / 2**20:.0f} MiB, first {init.pid}")
        for component, state in (files.read_json(place.state) or {}).items():
            note = f", restarted {state['restarts']} times" if state["restarts"] else ""
            print(f"  {component:25}{'ready' if state['ready'] else 'not ready'}{note}")
    explain(place)
    return 0 if is_healthy else 1


def require(name: str) -> paths.ClusterPaths:
    """Returns the paths of a running cluster; raises ClusterError when it does not run."""
    place = paths.ClusterPaths(name)
    if node.identity(place) is None:
        raise ClusterError(f"cluster {name} is not running: make cluster-up CLUSTER={name}")
    return place
