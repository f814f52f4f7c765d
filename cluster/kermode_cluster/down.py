"""Taking a cluster down so that nothing of it is left, whatever state it is in."""

import shutil

from . import cgroups, files, hostnet, node, paths
from .addresses import Addresses


def down(name: str) -> None:
    """Take a cluster down; no error when there is none."""
    place = paths.ClusterPaths(name)
    with files.locked(place.lock):
        if not place.root.exists():
            print(f"there is no cluster {name}")
            return
        remove(place)
    print(f"cluster {name} is down")


def remove(place: paths.ClusterPaths) -> None:
    """End the node, then remove what lies outside its namespaces; the folder last, as it names the rest."""
    if not place.root.exists():
        return
    node.end(place)
    settings = files.read_json(place.settings)
    if settings:
        hostnet.disconnect(place.name, Addresses(settings["number"]))
    cgroups.remove(place.cgroup)
    shutil.rmtree(place.root)
    # Under the lock that `up` reserves its folder with, so that no cluster appears in between.
    with files.locked(paths.cache() / "locks" / "addresses.lock"):
        if not paths.all_clusters():
            hostnet.restore_forwarding()
