"""The node's view of the file system, which protects the host's folders from its writes."""

from pathlib import Path

from .paths import ClusterPaths
from .processes import run

# Host folders that components and CNI plugins write to: inside the node they are overlays.
OVERLAID = ("/etc", "/opt", "/var/lib")
# Folders that must not be overlays: containerd's own overlays cannot lie on an overlay.
BOUND = {"/var/lib/kubelet": "kubelet", "/var/lib/containerd": "containerd", "/var/log": "node-log"}


def prepare(place: ClusterPaths) -> None:
    """Mounts all folders. The mount namespace is private, so the mounts end with it."""
    run("mount", "--make-rprivate", "/")
    # Mounts of Pods with mountPropagation must be visible in the other Pods of this node.
    run("mount", "--make-rshared", "/")
    for target in OVERLAID:
        upper = place.overlay(target)
        work = upper.with_name("work")
        upper.mkdir(parents=True, exist_ok=True)
        work.mkdir(parents=True, exist_ok=True)
        run("mount", "-t", "overlay", "-o", f"lowerdir={target},upperdir={upper},workdir={work}", "overlay", target)
    for target, source in BOUND.items():
        (place.root / source).mkdir(parents=True, exist_ok=True)
        Path(target).mkdir(parents=True, exist_ok=True)
        run("mount", "--bind", place.root / source, target)
    run("mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", "/run")
    run("mount", "-t", "proc", "proc", "/proc")
