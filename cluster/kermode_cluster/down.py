"""Takes a cluster down and removes everything that belongs to it, in any state of the cluster."""

import shutil

from . import cgroups, files, hostnet, kernel, node, paths
from .addresses import Addresses


def down(name: str) -> None:
    """Takes a cluster down; a missing cluster is not an error."""
    cluster = paths.ClusterPaths(name)
    with files.locked(cluster.lock):
        if not cluster.root.exists():
            print(f"cluster {name} does not exist")
            return
        remove(cluster)
    print(f"cluster {name} is down")


def remove(cluster: paths.ClusterPaths) -> None:
    """Ends the node, then removes the objects outside of its namespaces. The cluster's folder is removed last, because
    the removal of the other objects reads it."""
    if not cluster.root.exists():
        return
    node.kill(cluster)
    settings = files.read_json(cluster.settings)
    if settings:
        hostnet.disconnect(cluster.name, Addresses(settings["number"]))
    cgroups.remove(cluster.cgroup)
    shutil.rmtree(cluster.root)
    # `up` creates the folder of a cluster under the same lock, so no cluster can be created after the check.
    with files.locked(paths.cache() / "locks" / "addresses.lock"):
        if not paths.all_clusters():
            kernel.restore()
