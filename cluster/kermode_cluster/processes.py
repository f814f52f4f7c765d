"""Runs commands, and identifies processes across the reuse of pids."""

import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from .errors import ClusterError


def run(*command, stdin: str = None, check: bool = True, env: dict = None) -> str:
    """Runs a command and returns its output. If the command fails, ClusterError contains its error output."""
    result = subprocess.run(
        [str(part) for part in command],
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        text=True,
        env=env,
        check=False,
    )
    if check and result.returncode != 0:
        message = (result.stderr or result.stdout).strip()
        raise ClusterError(f"{' '.join(str(part) for part in command)}: exit code {result.returncode}: {message}")
    return result.stdout


def start_time(stat: str) -> int:
    """Returns field 22 of /proc/PID/stat. The command name (field 2) may contain spaces and brackets."""
    return int(stat.rpartition(")")[2].split()[19])


def process_state(stat: str) -> str:
    """Returns field 3 of /proc/PID/stat, the letter of the process state."""
    return stat.rpartition(")")[2].split()[0]


def parent(stat: str) -> int:
    """Returns field 4 of /proc/PID/stat, the pid of the parent."""
    return int(stat.rpartition(")")[2].split()[1])


@dataclass(frozen=True)
class ProcessIdentity:
    """A pid with its start time (clock ticks since boot), which makes it unique."""

    pid: int
    start: int

    @staticmethod
    def of(pid: int) -> "ProcessIdentity":
        """Returns the identity of a running process."""
        return ProcessIdentity(pid, start_time(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")))

    def is_alive(self) -> bool:
        """Whether this process still runs; a zombie does not."""
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_text(encoding="utf-8")
        except OSError:
            return False
        return start_time(stat) == self.start and process_state(stat) not in "ZX"

    def kill(self) -> None:
        """Kills this process, if it still runs. The pidfd ensures that no later process gets the signal."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            if self.is_alive():
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        except ProcessLookupError:
            pass
        finally:
            os.close(descriptor)


def wait_until(condition, seconds: float, interval: float = 0.05):
    """Polls until the condition is true and returns its value; None after the deadline."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= end:
            return None
        time.sleep(interval)
