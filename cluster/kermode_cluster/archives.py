"""Image archives, one file for each image, and their import into a cluster's containerd."""

import subprocess
import tempfile
from pathlib import Path

from . import build, node, oci, paths
from .errors import ClusterError
from .processes import run


def single_binary(name: str, binary: Path, arguments: list = None, user: str = "65532:65532") -> tuple:
    """Packs one static program as an image, into an archive beside the program. Returns reference and archive."""
    image = oci.Image([f"/{name}"] + (arguments or []), [[oci.Entry(name, source=binary)]], user=user)
    return pack(image, f"docker.io/kermode-cluster/{name}", "v1", binary.parent)


def pack(image: oci.Image, repository: str, version: str, folder: Path) -> tuple:
    """Writes an image as an archive in `folder`, tagged by its content. Returns reference and archive."""
    name = repository.rpartition("/")[2]
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        blobs = Path(temporary)
        written = oci.write_manifest(image, blobs)
        digest = written["manifest"]["digest"].partition(":")[2]
        reference = f"{repository}:{version}-{digest[:12]}"
        archive = folder / f"{name}.tar"
        oci.write_archive(written, blobs, reference, archive)
    return reference, archive


def system_images() -> dict:
    """Returns the images that a cluster itself needs."""
    return {"pause": single_binary("pause", build.pause()), "coredns": single_binary("coredns", build.coredns())}


def image_references(cluster: paths.ClusterPaths) -> set:
    """Returns references of the images in a cluster."""
    return set(run(*node.enter_command(cluster), "ctr", "-n", "k8s.io", "image", "list", "-q").split())


def load(cluster: paths.ClusterPaths, images) -> list:
    """Imports (reference, archive) pairs that the cluster does not have. Returns the imported references."""
    existing = image_references(cluster)
    imported = []
    for reference, archive in images:
        if reference in existing:
            continue
        # The archive goes through standard input, because some folders of the host are hidden in the node.
        with open(archive, "rb") as content:
            result = subprocess.run([*node.enter_command(cluster), "ctr", "-n", "k8s.io", "image", "import", "-"],
                                    stdin=content, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise ClusterError(f"cannot import {archive} into cluster {cluster.name}: {result.stderr.strip()}")
        imported.append(reference)
    return imported
