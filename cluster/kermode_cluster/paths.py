"""Paths: the repository, the cache, and the folder of a cluster."""

import os
import re
from pathlib import Path

from .errors import ClusterError

REPOSITORY = Path(__file__).resolve().parents[2]
CLUSTER_SOURCES = REPOSITORY / "cluster"
IMAGE_SOURCES = REPOSITORY / "images"
# Build output follows Cargo's setting; tests and benchmarks use the same folder.
TARGET = REPOSITORY / (os.environ.get("CARGO_TARGET_DIR") or "target")
IMAGE_OUTPUT = TARGET / "images"


def cache() -> Path:
    """Returns the root of all files that this tool writes outside the repository."""
    configured = os.environ.get("KERMODE_CACHE")
    return Path(configured).resolve() if configured else Path.home() / ".cache" / "kermode"


class ClusterPaths:
    """Files of one cluster, all below one folder, which `down` removes."""

    def __init__(self, name: str):
        if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?", name):
            raise ClusterError(
                f"cluster name {name!r} is not a DNS label of at most 40 characters: "
                "use lower-case letters, digits and '-'"
            )
        self.name = name
        self.root = cache() / "clusters" / name
        # Number and addresses of the cluster.
        self.settings = self.root / "cluster.json"
        # Pid and start time of process 1.
        self.init = self.root / "init.json"
        # Components that process 1 runs, their state, and the names of the components that `stop` keeps down.
        self.spec = self.root / "processes.json"
        self.state = self.root / "state.json"
        self.stopped = self.root / "stopped.json"
        self.kubeconfig = self.root / "kubeconfig"
        self.config = self.root / "config"
        self.pki = self.root / "pki"
        self.logs = self.root / "log"
        self.bin = self.root / "bin"
        self.lock = cache() / "locks" / f"{name}.lock"

    def overlay(self, target: str) -> Path:
        """Folder on the host with the node's changes to an overlaid folder such as /etc."""
        return self.root / "overlay" / target.strip("/").replace("/", "-") / "upper"

    @property
    def node_name(self) -> str:
        """Name of the only Node of the cluster."""
        return f"{self.name}-node"

    @property
    def cgroup(self) -> str:
        """Parent cgroup of all Pods of this cluster."""
        return f"kermode-{self.name}"


def all_clusters() -> list:
    """Returns the names of the clusters that have a folder, running or not."""
    folder = cache() / "clusters"
    return sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
