"""Running commands, and naming a process so that a recycled pid is never mistaken for it."""

import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from .errors import ClusterError


def run(*command, stdin: str = None, check: bool = True, env: dict = None) -> str:
    """Run a command to its end and return its output; its error text is in the exception."""
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
        said = (result.stderr or result.stdout).strip()
        raise ClusterError(f"{' '.join(str(part) for part in command)}: exit code {result.returncode}: {said}")
    return result.stdout


def start_time(stat: str) -> int:
    """Field 22 of /proc/PID/stat; the command name (field 2) may hold spaces and brackets."""
    return int(stat.rpartition(")")[2].split()[19])


def process_state(stat: str) -> str:
    """Field 3 of /proc/PID/stat, the letter of the process's state."""
    return stat.rpartition(")")[2].split()[0]


def parent(stat: str) -> int:
    """Field 4 of /proc/PID/stat, the parent's pid."""
    return int(stat.rpartition(")")[2].split()[1])


@dataclass(frozen=True)
class Identity:
    """A pid together with the start time (clock ticks since boot) that makes it unique."""

    pid: int
    start: int

    @staticmethod
    def of(pid: int) -> "Identity":
        """The identity of a live process."""
        return Identity(pid, start_time(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")))

    def alive(self) -> bool:
        """Whether this very process still runs; a zombie does not."""
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_text(encoding="utf-8")
        except OSError:
            return False
        return start_time(stat) == self.start and process_state(stat) not in "ZX"

    def kill(self) -> None:
        """End this very process, if it still runs. The pidfd closes the gap between check and signal."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            if self.alive():
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        except ProcessLookupError:
            pass
        finally:
            os.close(descriptor)


def wait_until(condition, seconds: float, interval: float = 0.05):
    """Poll until the condition is true and return its value; None when the time is over."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= end:
            return None
        time.sleep(interval)
