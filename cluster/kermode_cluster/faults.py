"""Taking components of a running cluster away and giving them back, for tests of what outlives them."""

import os
import signal

from . import files, node, paths
from .errors import ClusterError
from .processes import wait_until

DEADLINE = 60


def stop(place: paths.ClusterPaths, component: str) -> None:
    """Kill a component and keep it from being started again."""
    change(place, component, lambda stopped: stopped | {component})
    settle(place, component, lambda state: state["pid"] is None, "ends")


def start(place: paths.ClusterPaths, component: str) -> None:
    """Let a component run again; returns when it is ready."""
    change(place, component, lambda stopped: stopped - {component})
    settle(place, component, lambda state: state["ready"], "is ready")


def change(place: paths.ClusterPaths, component: str, to) -> None:
    """Write down what shall not run, and tell process 1."""
    known = [spec["name"] for spec in files.read_json(place.spec) or ()]
    if component not in known:
        raise ClusterError(f"cluster {place.name} has no component {component!r}: {', '.join(known)}")
    with files.locked(place.lock):
        files.write_json(place.stopped, sorted(to(set(files.read_json(place.stopped) or ()))))
    init = node.identity(place)
    if init is None:
        raise ClusterError(f"cluster {place.name} is not running")
    os.kill(init.pid, signal.SIGHUP)


def settle(place: paths.ClusterPaths, component: str, condition, what: str) -> None:
    """Wait until process 1 reports it."""
    if not wait_until(lambda: condition((files.read_json(place.state) or {})[component]), seconds=DEADLINE):
        raise ClusterError(f"waited {DEADLINE} s in vain until {component} {what}:\n"
                           + files.tail(place.logs / f"{component}.log"))
