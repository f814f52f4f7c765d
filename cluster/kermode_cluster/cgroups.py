"""Parent cgroup of a cluster's Pods, on cgroup v1 (one tree for each controller) and v2."""

import os
from pathlib import Path

from .errors import ClusterError
from .processes import wait_until

CONTROLLERS = ("cpu", "cpuset", "memory", "pids", "io", "hugetlb")


def parse_hierarchies(mountinfo: str) -> list:
    """Returns (mount point, version, used) of every cgroup tree; `used` is whether Pods get a cgroup in it. Pure."""
    versions = {}
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        kind = right.split()[0]
        if kind in ("cgroup", "cgroup2"):
            versions[left.split()[4]] = 2 if kind == "cgroup2" else 1
    # Beside v1 trees, a v2 tree has no controllers (systemd's "hybrid" layout), but runc creates folders in it.
    used = min(versions.values(), default=2)
    return [(Path(point), version, version == used) for point, version in versions.items()]


def host_hierarchies() -> list:
    """Returns the cgroup trees of this host."""
    return parse_hierarchies(Path("/proc/self/mountinfo").read_text(encoding="utf-8"))


def create(cgroup: str) -> None:
    """Creates the cgroup in every tree; the kubelet requires that its root cgroup exists."""
    trees = [(tree, version) for tree, version, used in host_hierarchies() if used]
    if not trees:
        raise ClusterError("no cgroup file system is mounted: mount cgroup2 on /sys/fs/cgroup")
    for tree, version in trees:
        folder = tree / cgroup
        folder.mkdir(exist_ok=True)
        if version == 2:
            delegate(tree)
            delegate(folder)
        elif (folder / "cpuset.cpus").exists():
            # In v1, a new cpuset is empty and accepts no process before it has CPUs and memory nodes.
            for setting in ("cpuset.cpus", "cpuset.mems"):
                (folder / setting).write_text((tree / setting).read_text(encoding="utf-8"), encoding="utf-8")


def delegate(folder: Path) -> None:
    """Enables controllers for the children of a v2 cgroup."""
    available = (folder / "cgroup.controllers").read_text(encoding="utf-8").split()
    wanted = " ".join(f"+{name}" for name in CONTROLLERS if name in available)
    if wanted:
        (folder / "cgroup.subtree_control").write_text(wanted, encoding="utf-8")


def existing_folders(cgroup: str) -> list:
    """Returns the existing folders of this cgroup, children before parents."""
    found = []
    for tree, _, _ in host_hierarchies():
        for folder, _, _ in os.walk(tree / cgroup, topdown=False):
            found.append(Path(folder))
    return found


def remove(cgroup: str) -> None:
    """Removes the cgroup and its children. Their processes have been killed, but may take a moment to end."""
    def try_remove() -> bool:
        for folder in existing_folders(cgroup):
            try:
                folder.rmdir()
            except OSError:
                pass
        return not existing_folders(cgroup)
    if not wait_until(try_remove, seconds=15):
        raise ClusterError(
            f"cgroup {existing_folders(cgroup)[0]} still has processes: end those in its cgroup.procs "
            "and run cluster-down again"
        )
