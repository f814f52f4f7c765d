"""Target cluster of the demo: a local one on this machine, or the user's."""

import shutil
from dataclasses import dataclass

from kermode_cluster import down, images, paths, up

from .errors import DemoError
from .kubectl import Kubectl


@dataclass(frozen=True)
class Local:
    """A local cluster, which the demo creates."""

    name: str

    @property
    def title(self) -> str:
        """Name of the cluster in progress messages."""
        return f"local Kubernetes cluster {self.name!r}"

    def prepare(self) -> dict:
        """Brings the cluster up and loads the images. Returns references by name."""
        up.up(self.name)
        references = images.built_references()
        images.load(paths.ClusterPaths(self.name))
        return references

    def kubectl(self) -> Kubectl:
        """Returns the kubectl of the cluster's version."""
        place = paths.ClusterPaths(self.name)
        if not place.kubeconfig.exists():
            raise DemoError(f"cluster {self.name} does not exist: run make demo")
        return Kubectl(str(place.bin / "kubectl"), str(place.kubeconfig))

    def environment(self) -> list:
        """Returns shell commands that set kubectl up."""
        place = paths.ClusterPaths(self.name)
        return [f"export KUBECONFIG={place.kubeconfig}", f"export PATH={place.bin}:$PATH"]

    def tear_down(self) -> None:
        """Takes the cluster down, and the demo with it."""
        down.down(self.name)


@dataclass(frozen=True)
class Remote:
    """The user's cluster, with the registry that it pulls from."""

    kubeconfig: str
    registry: str

    @property
    def title(self) -> str:
        """Name of the cluster in progress messages."""
        return f"your cluster (KUBECONFIG={self.kubeconfig})"

    def prepare(self) -> dict:
        """Pushes the images. Returns references by name."""
        print(f"pushing images to {self.registry} ...", flush=True)
        return images.push(self.registry.rstrip("/"))

    def kubectl(self) -> Kubectl:
        """Returns the user's kubectl."""
        program = shutil.which("kubectl")
        if not program:
            raise DemoError("kubectl is not on PATH: install it (https://kubernetes.io/docs/tasks/tools/)")
        return Kubectl(program, self.kubeconfig)

    def environment(self) -> list:
        """Returns shell commands that set kubectl up."""
        return [f"export KUBECONFIG={self.kubeconfig}"]

    def tear_down(self) -> None:
        """Does nothing: the caller removes the installation, and the cluster is the user's."""


def chosen(name: str, environment: dict):
    """Returns the user's cluster when KUBECONFIG and KERMODE_REGISTRY are set, else the local one. Pure."""
    kubeconfig, registry = environment.get("KUBECONFIG"), environment.get("KERMODE_REGISTRY")
    if registry and not kubeconfig:
        raise DemoError("KERMODE_REGISTRY is set but KUBECONFIG is not: set both for your own cluster, "
                        "or neither for a local one")
    return Remote(kubeconfig, registry) if registry else Local(name)
