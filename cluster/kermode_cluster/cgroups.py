"""The cgroup below which a cluster's pods live, on cgroup v1 (one tree per controller) and v2."""

import os
from pathlib import Path

from .errors import ClusterError
from .processes import wait_until

CONTROLLERS = ("cpu", "cpuset", "memory", "pids", "io", "hugetlb")


def hierarchies(mountinfo: str) -> list:
    """(mount point, version) of the cgroup trees the kubelet uses. Pure."""
    first = {}
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        mount_point, kind = left.split()[4], right.split()[0]
        if kind == "cgroup":
            first[mount_point] = 1
        elif kind == "cgroup2":
            first[mount_point] = 2
    version_one = [(Path(point), 1) for point, version in first.items() if version == 1]
    # Beside v1 trees a v2 tree has no controllers: systemd's "hybrid" layout.
    return version_one or [(Path(point), 2) for point in first]


def mounted() -> list:
    """The cgroup trees of this host."""
    return hierarchies(Path("/proc/self/mountinfo").read_text(encoding="utf-8"))


def create(cgroup: str) -> None:
    """Make the cgroup in every tree; the kubelet refuses a root that is not there."""
    trees = mounted()
    if not trees:
        raise ClusterError("no cgroup file system is mounted: mount cgroup2 on /sys/fs/cgroup")
    for tree, version in trees:
        folder = tree / cgroup
        folder.mkdir(exist_ok=True)
        if version == 2:
            delegate(tree)
            delegate(folder)
        elif (folder / "cpuset.cpus").exists():
            # In v1 a new cpuset is empty and takes no process until it has been filled.
            for setting in ("cpuset.cpus", "cpuset.mems"):
                (folder / setting).write_text((tree / setting).read_text(encoding="utf-8"), encoding="utf-8")


def delegate(folder: Path) -> None:
    """Let children of a v2 cgroup have controllers of their own."""
    available = (folder / "cgroup.controllers").read_text(encoding="utf-8").split()
    wanted = " ".join(f"+{name}" for name in CONTROLLERS if name in available)
    if wanted:
        (folder / "cgroup.subtree_control").write_text(wanted, encoding="utf-8")


def remaining(cgroup: str) -> list:
    """The folders of this cgroup that exist, children before parents."""
    found = []
    for tree, _ in mounted():
        for folder, _, _ in os.walk(tree / cgroup, topdown=False):
            found.append(Path(folder))
    return found


def remove(cgroup: str) -> None:
    """Remove the cgroup and all below it; its processes have been killed, ending takes a moment."""
    def gone() -> bool:
        for folder in remaining(cgroup):
            try:
                folder.rmdir()
            except OSError:
                pass
        return not remaining(cgroup)
    if not wait_until(gone, seconds=15):
        raise ClusterError(
            f"cgroup {remaining(cgroup)[0]} still has processes: see its cgroup.procs, end them, "
            "and run cluster-down again"
        )
