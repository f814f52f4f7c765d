"""Whose cluster the demo runs on: one of our own on this machine, or the user's."""

import shutil
from dataclasses import dataclass

from kermode_cluster import down, images, paths, up

from .errors import DemoError
from .kubectl import Kubectl


@dataclass(frozen=True)
class Local:
    """A cluster on this machine, made for the purpose."""

    name: str

    @property
    def title(self) -> str:
        """What the progress calls it."""
        return f"local Kubernetes cluster {self.name!r}"

    def prepare(self) -> dict:
        """Bring the cluster up and give it the images; name → reference."""
        up.up(self.name)
        references = images.built()
        images.load(paths.ClusterPaths(self.name))
        return references

    def kubectl(self) -> Kubectl:
        """kubectl of the cluster's version."""
        place = paths.ClusterPaths(self.name)
        if not place.kubeconfig.exists():
            raise DemoError(f"there is no cluster {self.name}: make demo starts it")
        return Kubectl(str(place.bin / "kubectl"), str(place.kubeconfig))

    def environment(self) -> list:
        """Shell lines after which `kubectl` alone works."""
        place = paths.ClusterPaths(self.name)
        return [f"export KUBECONFIG={place.kubeconfig}", f"export PATH={place.bin}:$PATH"]

    def tear_down(self) -> None:
        """Take the cluster down, and the demo with it."""
        down.down(self.name)


@dataclass(frozen=True)
class Remote:
    """The user's cluster, with a registry that it pulls from."""

    kubeconfig: str
    registry: str

    @property
    def title(self) -> str:
        """What the progress calls it."""
        return f"your cluster (KUBECONFIG={self.kubeconfig})"

    def prepare(self) -> dict:
        """Push the images; name → reference."""
        print(f"pushing images to {self.registry} ...", flush=True)
        return images.push(self.registry.rstrip("/"))

    def kubectl(self) -> Kubectl:
        """The user's kubectl."""
        program = shutil.which("kubectl")
        if not program:
            raise DemoError("kubectl is not on PATH: install it (https://kubernetes.io/docs/tasks/tools/)")
        return Kubectl(program, self.kubeconfig)

    def environment(self) -> list:
        """Shell lines after which `kubectl` alone works."""
        return [f"export KUBECONFIG={self.kubeconfig}"]

    def tear_down(self) -> None:
        """Nothing of the cluster itself is ours; what was installed is removed by the caller."""


def chosen(name: str, environment: dict):
    """Local, unless both KUBECONFIG and KERMODE_REGISTRY are set. Pure."""
    kubeconfig, registry = environment.get("KUBECONFIG"), environment.get("KERMODE_REGISTRY")
    if registry and not kubeconfig:
        raise DemoError("KERMODE_REGISTRY is set but KUBECONFIG is not: set both for a cluster of yours, "
                        "or neither for a local one")
    return Remote(kubeconfig, registry) if registry else Local(name)
