"""Target cluster of the demo: a local cluster on this machine, or the user's cluster."""

import shutil
from dataclasses import dataclass

from kermode_cluster import down, images, paths, up

from .errors import DemoError
from .kubectl import Kubectl


@dataclass(frozen=True)
class LocalCluster:
    """A local cluster, which the demo creates."""

    name: str

    @property
    def title(self) -> str:
        """Name of the cluster in progress messages."""
        return f"local Kubernetes cluster {self.name!r}"

    def prepare(self) -> dict:
        """Brings the cluster up and loads the images. Returns the image references by name."""
        up.up(self.name)
        references = images.built_references()
        images.load(paths.ClusterPaths(self.name))
        return references

    def kubectl(self) -> Kubectl:
        """Returns the kubectl of the cluster's version."""
        cluster = paths.ClusterPaths(self.name)
        if not cluster.kubeconfig.exists():
            raise DemoError(f"cluster {self.name} does not exist: run make demo CLUSTER={self.name}")
        return Kubectl(str(cluster.bin / "kubectl"), str(cluster.kubeconfig))

    def environment(self) -> list:
        """Returns shell commands that set kubectl up."""
        cluster = paths.ClusterPaths(self.name)
        return [f"export KUBECONFIG={cluster.kubeconfig}", f"export PATH={cluster.bin}:$PATH"]

    def tear_down(self) -> None:
        """Takes the cluster down, which removes the demo as well."""
        down.down(self.name)


@dataclass(frozen=True)
class UserCluster:
    """The user's cluster, with the registry that it pulls from."""

    kubeconfig: str
    registry: str

    @property
    def title(self) -> str:
        """Name of the cluster in progress messages."""
        return f"your cluster (KUBECONFIG={self.kubeconfig})"

    def prepare(self) -> dict:
        """Pushes the images. Returns the image references by name."""
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
        """Does nothing, because the cluster is the user's. The caller has removed application and mesh."""


def select(name: str, environment: dict):
    """Returns the user's cluster if KUBECONFIG and KERMODE_REGISTRY are set, else the local cluster. Pure."""
    kubeconfig, registry = environment.get("KUBECONFIG"), environment.get("KERMODE_REGISTRY")
    if registry and not kubeconfig:
        raise DemoError("KERMODE_REGISTRY is set but KUBECONFIG is not: set both for your own cluster, "
                        "or neither for a local one")
    return UserCluster(kubeconfig, registry) if registry else LocalCluster(name)
