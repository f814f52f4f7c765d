"""Stops and starts components of a running cluster, for tests of outages."""

import os
import signal

from . import files, node, paths
from .errors import ClusterError
from .processes import ProcessIdentity, wait_until

# Timeout of the end of a stopped component, and of the readiness of a started one.
TIMEOUT_SECONDS = 60


def stop(cluster: paths.ClusterPaths, component: str) -> None:
    """Kills a component and keeps it down."""
    require_component(cluster, component)
    update_stopped(cluster, lambda stopped: stopped | {component})
    wait_for_state(cluster, component, lambda state: state["pid"] is None, "ends")


def start(cluster: paths.ClusterPaths, component: str) -> None:
    """Starts a stopped component and returns once it is ready."""
    require_component(cluster, component)
    update_stopped(cluster, lambda stopped: stopped - {component})
    wait_for_state(cluster, component, lambda state: state["ready"], "is ready")


def require_component(cluster: paths.ClusterPaths, component: str) -> None:
    """Raises ClusterError if the cluster has no such component."""
    known = [spec["name"] for spec in files.read_json(cluster.spec) or ()]
    if component not in known:
        raise ClusterError(f"cluster {cluster.name} has no component {component!r}: name one of {', '.join(known)}")


def require_init(cluster: paths.ClusterPaths) -> ProcessIdentity:
    """Returns process 1; raises ClusterError when the node does not run."""
    init = node.init_process(cluster)
    if init is None:
        raise ClusterError(f"cluster {cluster.name} is not running: make cluster-up CLUSTER={cluster.name}")
    return init


def update_stopped(cluster: paths.ClusterPaths, update) -> None:
    """Applies `update` to the set of stopped components, and signals process 1 to read the result."""
    with files.locked(cluster.lock):
        files.write_json(cluster.stopped, sorted(update(set(files.read_json(cluster.stopped) or ()))))
    os.kill(require_init(cluster).pid, signal.SIGHUP)


def wait_for_state(cluster: paths.ClusterPaths, component: str, condition, condition_name: str) -> None:
    """Waits until the state that process 1 reports for a component meets a condition."""
    if not wait_until(lambda: condition((files.read_json(cluster.state) or {})[component]), seconds=TIMEOUT_SECONDS):
        raise ClusterError(f"timed out after {TIMEOUT_SECONDS} s waiting until {component} {condition_name}:\n"
                           + files.tail(cluster.logs / f"{component}.log"))
