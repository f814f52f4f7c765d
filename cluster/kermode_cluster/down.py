"""Takes a cluster down and removes everything it left, whatever its state."""

import shutil

from . import cgroups, files, hostnet, node, paths
from .addresses import Addresses


def down(name: str) -> None:
    """Takes a cluster down; a missing cluster is not an error."""
    place = paths.ClusterPaths(name)
    with files.locked(place.lock):
        if not place.root.exists():
            print(f"there is no cluster {name}")
            return
        remove(place)
    print(f"cluster {name} is down")


def remove(place: paths.ClusterPaths) -> None:
    """Ends the node, then removes what lies outside its namespaces. The folder goes last, because it names the rest."""
    if not place.root.exists():
        return
    node.end(place)
    settings = files.read_json(place.settings)
    if settings:
        hostnet.disconnect(place.name, Addresses(settings["number"]))
    cgroups.remove(place.cgroup)
    shutil.rmtree(place.root)
    # `up` reserves its folder under the same lock, so no cluster appears in between.
    with files.locked(paths.cache() / "locks" / "addresses.lock"):
        if not paths.all_clusters():
            hostnet.restore_forwarding()
