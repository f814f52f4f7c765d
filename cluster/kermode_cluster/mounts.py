"""Mounts of the node's mount namespace: components see the host's file system, but their writes do not reach it."""

from pathlib import Path

from .paths import ClusterPaths
from .processes import run

# Host folders that components and CNI plugins write to. Inside the node, they are overlays.
OVERLAID_FOLDERS = ("/etc", "/opt", "/var/lib")
# Folders of the node, and the folders below the cluster's folder that are mounted there. They are not overlays, because
# containerd cannot put its own overlays on an overlay.
BIND_MOUNTS = {"/var/lib/kubelet": "kubelet", "/var/lib/containerd": "containerd", "/var/log": "node-log"}


def prepare(cluster: ClusterPaths) -> None:
    """Mounts all folders. The mount namespace is private, so the mounts end with it."""
    run("mount", "--make-rprivate", "/")
    # Mounts of Pods with mountPropagation must be visible in the other Pods of this node.
    run("mount", "--make-rshared", "/")
    for target in OVERLAID_FOLDERS:
        upper = cluster.overlay(target)
        work = upper.with_name("work")
        upper.mkdir(parents=True, exist_ok=True)
        work.mkdir(parents=True, exist_ok=True)
        run("mount", "-t", "overlay", "-o", f"lowerdir={target},upperdir={upper},workdir={work}", "overlay", target)
    for target, source in BIND_MOUNTS.items():
        (cluster.root / source).mkdir(parents=True, exist_ok=True)
        Path(target).mkdir(parents=True, exist_ok=True)
        run("mount", "--bind", cluster.root / source, target)
    run("mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", "/run")
    run("mount", "-t", "proc", "proc", "/proc")
