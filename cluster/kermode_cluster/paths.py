"""Where things live: the repository, the cache, and the folder of one cluster."""

import os
import re
from pathlib import Path

from .errors import ClusterError

REPOSITORY = Path(__file__).resolve().parents[2]
CLUSTER_SOURCES = REPOSITORY / "cluster"
IMAGE_SOURCES = REPOSITORY / "images"
# Cargo's own setting decides where what is built goes; the tests and benchmarks look there too.
TARGET = REPOSITORY / (os.environ.get("CARGO_TARGET_DIR") or "target")
IMAGE_OUTPUT = TARGET / "images"


def cache() -> Path:
    """Root of everything this tool writes outside the tree."""
    given = os.environ.get("KERMODE_CACHE")
    return Path(given).resolve() if given else Path.home() / ".cache" / "kermode"


class ClusterPaths:
    """The files of one cluster, all below one folder so that `down` can remove it whole."""

    def __init__(self, name: str):
        if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?", name):
            raise ClusterError(
                f"cluster name {name!r} is not a DNS label of at most 40 characters: "
                "use lower-case letters, digits and '-'"
            )
        self.name = name
        self.root = cache() / "clusters" / name
        self.settings = self.root / "cluster.json"
        self.init = self.root / "init.json"
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
        """Where the node's own files of a folder it overlays (such as /etc) lie on the host."""
        return self.root / "overlay" / target.strip("/").replace("/", "-") / "upper"

    @property
    def node_name(self) -> str:
        """Name of the cluster's only Node."""
        return f"{self.name}-node"

    @property
    def cgroup(self) -> str:
        """Cgroup below which the kubelet keeps every pod of this cluster."""
        return f"kermode-{self.name}"


def all_clusters() -> list:
    """Names of the clusters that have a folder, running or not."""
    folder = cache() / "clusters"
    return sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
