"""Stops and starts components of a running cluster, for tests of outages."""

import os
import signal

from . import files, node, paths
from .errors import ClusterError
from .processes import wait_until

DEADLINE = 60


def stop(place: paths.ClusterPaths, component: str) -> None:
    """Kills a component and keeps it down."""
    change(place, component, lambda stopped: stopped | {component})
    settle(place, component, lambda state: state["pid"] is None, "ends")


def start(place: paths.ClusterPaths, component: str) -> None:
    """Starts a stopped component and returns once it is ready."""
    change(place, component, lambda stopped: stopped - {component})
    settle(place, component, lambda state: state["ready"], "is ready")


def change(place: paths.ClusterPaths, component: str, update) -> None:
    """Writes the list of stopped components and signals process 1."""
    known = [spec["name"] for spec in files.read_json(place.spec) or ()]
    if component not in known:
        raise ClusterError(f"cluster {place.name} has no component {component!r}: {', '.join(known)}")
    with files.locked(place.lock):
        files.write_json(place.stopped, sorted(update(set(files.read_json(place.stopped) or ()))))
    init = node.identity(place)
    if init is None:
        raise ClusterError(f"cluster {place.name} is not running")
    os.kill(init.pid, signal.SIGHUP)


def settle(place: paths.ClusterPaths, component: str, condition, state: str) -> None:
    """Waits until process 1 reports the state."""
    if not wait_until(lambda: condition((files.read_json(place.state) or {})[component]), seconds=DEADLINE):
        raise ClusterError(f"timed out after {DEADLINE} s waiting until {component} {state}:\n"
                           + files.tail(place.logs / f"{component}.log"))
