"""Process 1 of a node: prepares its mounts, runs its components, reaps orphans.

A node is one PID, mount, network, UTS and IPC namespace. When this process ends, the kernel kills all other processes
of the node, including shims and containers, and removes mounts, interfaces, routes and rules; `down` relies on that.
node.py runs this module as `python3 -m kermode_cluster.supervisor NAME`.
"""

import http.client
import os
import select
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from . import files
from .mounts import prepare
from .paths import ClusterPaths
from .processes import ProcessIdentity

# Seconds between the end of a component and its restart.
RESTART_DELAY = 1.0
# Readiness checks: without verification of certificates, and without the proxy of the environment.
UNVERIFIED = ssl._create_unverified_context()  # pylint: disable=protected-access
NO_PROXY = urllib.request.build_opener(
    urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=UNVERIFIED))


class ManagedComponent:
    """A component, its process and its state."""

    def __init__(self, spec: dict, logs: Path):
        # The component as rendered by components.py.
        self.spec = spec
        self.log = logs / f"{spec['name']}.log"
        self.pid = None
        self.ready = False
        # Number of times that the process has ended without a request to stop, and its last exit code.
        self.restarts = 0
        self.exit_code = None
        # Monotonic time before which the component is not started.
        self.start_at = 0.0
        # Whether `stop` keeps the component down.
        self.stopped = False

    def start(self) -> None:
        """Starts the component in its own session, with its output in its log."""
        with open(self.log, "ab") as log:
            child = subprocess.Popen(  # pylint: disable=consider-using-with
                self.spec["command"], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, cwd="/")
        self.pid = child.pid

    def record_end(self, status: int) -> None:
        """Records the end of the process and the time of the next start."""
        self.exit_code = os.waitstatus_to_exitcode(status)
        self.pid, self.ready = None, False
        if not self.stopped:
            self.restarts += 1
        self.start_at = time.monotonic() + RESTART_DELAY

    def stop(self) -> None:
        """Kills the process with SIGKILL and keeps it down."""
        self.stopped = True
        self.ready = False
        if self.pid is not None:
            os.kill(self.pid, signal.SIGKILL)

    def check_ready(self) -> bool:
        """Whether the component is ready now."""
        if self.spec["url"]:
            try:
                with NO_PROXY.open(self.spec["url"], timeout=2) as response:
                    return response.status == 200
            except (OSError, http.client.HTTPException, urllib.error.URLError):
                return False
        if self.spec["socket"]:
            with socket.socket(socket.AF_UNIX) as client:
                return client.connect_ex(self.spec["socket"]) == 0
        return True

    def report(self) -> dict:
        """Returns the state that `status` and `up` read."""
        return {"pid": self.pid, "ready": self.ready, "restarts": self.restarts, "exit_code": self.exit_code}


def reap(components: list) -> None:
    """Reaps all ended children: components, and orphans that the kernel gave to process 1."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        for component in components:
            if component.pid == pid:
                component.record_end(status)


def reconcile(components: list, stopped: set = frozenset()) -> bool:
    """Stops and starts components and checks their readiness. Returns whether every component is ready or, if it is in
    `stopped`, has ended."""
    ready = {component.spec["name"] for component in components if component.ready}
    for component in components:
        if component.spec["name"] in stopped:
            if not component.stopped:
                component.stop()
            continue
        component.stopped = False
        if component.pid is None:
            if set(component.spec["after"]) <= ready and time.monotonic() >= component.start_at:
                component.start()
        elif not component.ready:
            component.ready = component.check_ready()
    return all(component.ready or (component.stopped and component.pid is None) for component in components)


def supervise(components: list, state: Path, stopped: Path) -> None:
    """Runs until SIGTERM. SIGHUP reloads the list of stopped components."""
    wake_reader, wake_writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake_writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGHUP, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    reported = None
    while True:
        reap(components)
        settled = reconcile(components, set(files.read_json(stopped) or ()))
        report = {component.spec["name"]: component.report() for component in components}
        if report != reported:
            files.write_json(state, report)
            reported = report
        if select.select([wake_reader], [], [], 5.0 if settled else 0.05)[0]:
            os.read(wake_reader, 4096)


def main() -> int:
    """Announces this process, prepares the node, waits for its network, and runs the components."""
    cluster = ClusterPaths(sys.argv[1])
    # Until prepare() mounts the node's /proc, /proc/self contains the pid on the host.
    identity = ProcessIdentity.of(int(os.readlink("/proc/self")))
    socket.sethostname(cluster.node_name)
    prepare(cluster)
    files.write_json(cluster.init, {"pid": identity.pid, "start": identity.start})
    if sys.stdin.readline().strip() != "go":
        return 1
    specs = files.read_json(cluster.spec)
    supervise([ManagedComponent(spec, cluster.logs) for spec in specs], cluster.state, cluster.stopped)
    return 0


if __name__ == "__main__":
    sys.exit(main())
