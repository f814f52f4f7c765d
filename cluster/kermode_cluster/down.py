"""Takes a cluster down and removes everything that belongs to it, in any state of the cluster."""

import shutil

from . import cgroups, files, hostnet, node, paths
from .addresses import Addresses


def down(name: str) -> None:
    """Takes a cluster down; a missing cluster is not an error."""
    place = paths.ClusterPaths(name)
    with files.locked(place.lock):
        if not place.root.exists():
            print(f"cluster {name} does not exist")
            return
        remove(place)
    print(f"cluster {name} is down")


def remove(place: paths.ClusterPaths) -> None:
    """Ends the node, then removes the objects outside of its namespaces. The folder is removed last, because it contains the
    names of the others."""
    if not place.root.exists():
        return
    node.end(place)
    settings = files.read_json(place.settings)
    if settings:
        hostnet.disconnect(place.name, Addresses(settings["number"]))
    cgroups.remove(place.cgroup)
    shutil.rmtree(place.root)
    # `up` creates its folder under the same lock, so no cluster can be created after the check.
    with files.locked(paths.cache() / "locks" / "addresses.lock"):
        if not paths.all_clusters():
            hostnet.restore_forwarding()
