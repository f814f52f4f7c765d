"""Starts, enters and ends the node: a set of namespaces around process 1, which runs supervisor.py."""

import json
import os
import subprocess
import sys

from . import files, paths
from .errors import ClusterError
from .processes import ProcessIdentity, parent, wait_until


def start(cluster: paths.ClusterPaths, connect) -> ProcessIdentity:
    """Starts process 1, calls `connect(pid)` to set up its network, and lets it continue. Returns its identity."""
    cluster.logs.mkdir(parents=True, exist_ok=True)
    with open(cluster.logs / "supervisor.log", "ab") as log:
        starter = subprocess.Popen(  # pylint: disable=consider-using-with
            ["unshare", "--mount", "--pid", "--uts", "--ipc", "--net", "--fork", "--kill-child", "--",
             sys.executable, "-m", "kermode_cluster.supervisor", cluster.name],
            stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True, cwd="/",
            env=dict(os.environ, PYTHONPATH=str(paths.CLUSTER_SOURCES), KERMODE_CACHE=str(paths.cache())))
    try:
        announced = wait_until(
            lambda: files.read_json(cluster.init) or (starter.poll() is not None and "ended"), seconds=20)
        if not isinstance(announced, dict):
            raise ClusterError("the node did not start:\n" + files.tail(cluster.logs / "supervisor.log"))
        identity = ProcessIdentity(announced["pid"], announced["start"])
        connect(identity.pid)
        starter.stdin.write(b"go\n")
        starter.stdin.close()
    except BaseException:
        starter.kill()
        starter.wait()
        raise
    return identity


def init_process(cluster: paths.ClusterPaths):
    """Returns process 1 of a running node, else None."""
    announced = files.read_json(cluster.init)
    if not announced:
        return None
    found = ProcessIdentity(announced["pid"], announced["start"])
    return found if found.is_alive() else None


def enter_command(cluster: paths.ClusterPaths) -> list:
    """Returns the command prefix that runs a program inside the node."""
    init = init_process(cluster)
    if init is None:
        raise ClusterError(f"cluster {cluster.name} is not running: make cluster-up CLUSTER={cluster.name}")
    return ["nsenter", "--target", str(init.pid), "--mount", "--uts", "--ipc", "--net", "--pid", "--wd=/", "--"]


def descendants(init: int, parents: dict) -> set:
    """Returns `init` and all its descendants, from a map of pids to their parents. Pure.

    Containers have their own PID namespaces, so processes of a node are recognised by their ancestry. Orphans stay
    descendants, because process 1 of their namespace adopts them.
    """
    children = {}
    for pid, ancestor in parents.items():
        children.setdefault(ancestor, []).append(pid)
    found, pending = set(), [init]
    while pending:
        pid = pending.pop()
        found.add(pid)
        pending += children.get(pid, [])
    return found


def processes(init: ProcessIdentity) -> dict:
    """Returns host pid and command line of every process in the node, including containers."""
    parents, commands = {}, {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat", encoding="utf-8", errors="replace") as file:
                parents[int(entry)] = parent(file.read())
            with open(f"/proc/{entry}/cmdline", "rb") as file:
                commands[int(entry)] = file.read().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue
    return {pid: commands.get(pid, "") for pid in descendants(init.pid, parents)}


def memory(pids) -> int:
    """Returns the proportional set size of these processes in bytes."""
    total = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/smaps_rollup", encoding="utf-8") as file:
                total += next(int(line.split()[1]) * 1024 for line in file if line.startswith("Pss:"))
        except (OSError, StopIteration):
            continue
    return total


def kill(cluster: paths.ClusterPaths) -> None:
    """Kills process 1 and waits until the kernel has ended all processes in its namespaces."""
    init = init_process(cluster)
    if init is None:
        return
    init.kill()
    if not wait_until(lambda: not init.is_alive(), seconds=30):
        raise ClusterError(f"process {init.pid} of cluster {cluster.name} still runs after SIGKILL: "
                           + json.dumps(processes(init), indent=2))
