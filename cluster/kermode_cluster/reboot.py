"""Reboots the node of a running cluster, for tests. As after the reboot of a machine, only the node's files on disk and
its connection to the host remain."""

from . import cgroups, faults, files, node, paths
from .errors import ClusterError
from .processes import ProcessIdentity, run, wait_until

# Folders whose mounts the container runtime and the kubelet make again.
FOLDERS_OF_MOUNTS = ("/run/", "/var/lib/kubelet/pods/")
# Timeout of the end of all processes, and of the removal of all mounts, in seconds.
TIMEOUT_SECONDS = 60


def reboot(cluster: paths.ClusterPaths) -> None:
    """Ends all processes of the node but process 1, clears what a machine keeps in memory, and starts the components.
    Returns once they are ready; Pods start later."""
    names = [spec["name"] for spec in files.read_json(cluster.spec) or ()]
    faults.update_stopped(cluster, lambda _: set(names))
    for name in names:
        faults.wait_for_state(cluster, name, lambda state: state["pid"] is None, "ends")
    end_processes(cluster)
    clear_memory(cluster)
    if cgroups.existing_folders(cluster.cgroup):
        # The kubelet waits some seconds for each container whose cgroup exists.
        cgroups.remove(cluster.cgroup)
        cgroups.create(cluster.cgroup)
    faults.update_stopped(cluster, lambda _: set())
    for name in names:
        faults.wait_for_state(cluster, name, lambda state: state["ready"], "is ready")


def end_processes(cluster: paths.ClusterPaths) -> None:
    """Kills all processes of the node but process 1."""
    init = faults.require_init(cluster)

    def no_process_remains() -> bool:
        others = set(node.processes(init)) - {init.pid}
        for pid in others:
            try:
                ProcessIdentity.of(pid).kill()
            except OSError:
                # The process has ended meanwhile.
                continue
        return not others
    if not wait_until(no_process_remains, seconds=TIMEOUT_SECONDS):
        raise ClusterError(f"processes of cluster {cluster.name} still run after SIGKILL")


def clear_memory(cluster: paths.ClusterPaths) -> None:
    """Removes mounts of containers and Pods, all files below /run, and all netfilter rules. The kernel removes the
    interfaces of Pods with their network namespaces."""
    init = faults.require_init(cluster)
    enter = node.enter_command(cluster)

    def no_mount_remains() -> bool:
        mounts = former_mounts(mount_info(init.pid))
        if mounts:
            # The removal of a mount also removes its copies in bind mounts of its folder, so some are gone already. A
            # mount with a mount on top of it may need another round.
            run(*enter, "umount", "--lazy", *mounts, check=False)
        return not mounts
    if not wait_until(no_mount_remains, seconds=TIMEOUT_SECONDS):
        remaining = former_mounts(mount_info(init.pid))
        raise ClusterError(f"the mount {remaining[:1]} of cluster {cluster.name} cannot be removed")
    run(*enter, "find", "/run", "-mindepth", "1", "-delete")
    run(*enter, "nft", "flush", "ruleset")


def mount_info(pid: int) -> str:
    """Returns the mounts that a process sees."""
    with open(f"/proc/{pid}/mountinfo", encoding="utf-8") as file:
        return file.read()


def former_mounts(mountinfo: str) -> list:
    """Returns the mount points of containers and Pods, later mounts first. Pure.

    The node has a /run of its own. Mounts below the host's /run are listed too, but they are hidden and cannot be
    removed."""
    mounts = [line.split()[:5] for line in mountinfo.splitlines()]
    parents = {identity: parent for identity, parent, *_ in mounts}
    runs = [identity for identity, _, _, _, point in mounts if point == "/run"]

    def is_hidden(identity: str, point: str) -> bool:
        if not point.startswith("/run/") or not runs:
            return False
        for _ in mounts:
            if identity == runs[-1]:
                return False
            identity = parents.get(identity)
        return True
    return [point for identity, _, _, _, point in reversed(mounts)
            if point.startswith(FOLDERS_OF_MOUNTS) and not is_hidden(identity, point)]
