"""Images as archives on disk, one file each, and getting them into a cluster's containerd."""

import subprocess
import tempfile
from pathlib import Path

from . import build, node, oci, paths
from .errors import ClusterError
from .processes import run


def single_binary(name: str, binary: Path, arguments: list = None, user: str = "65532:65532") -> tuple:
    """An image that is one static program; its reference and archive, cached beside the program."""
    image = oci.Image([f"/{name}"] + (arguments or []), [[oci.Entry(name, source=binary)]], user=user)
    return pack(image, f"docker.io/kermode-cluster/{name}", "v1", binary.parent)


def pack(image: oci.Image, repository: str, version: str, folder: Path) -> tuple:
    """Write an image as an archive in `folder`, tagged by its content; (reference, archive)."""
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
    """The images a cluster itself needs."""
    return {"pause": single_binary("pause", build.pause()), "coredns": single_binary("coredns", build.coredns())}


def present(place: paths.ClusterPaths) -> set:
    """References of the images a cluster has."""
    return set(run(*node.entering(place), "ctr", "-n", "k8s.io", "image", "list", "-q").split())


def load(place: paths.ClusterPaths, images) -> list:
    """Import (reference, archive) pairs that the cluster does not have; the references imported."""
    there = present(place)
    imported = []
    for reference, archive in images:
        if reference in there:
            continue
        # Through standard input: the node sees other files than the host below some folders.
        with open(archive, "rb") as content:
            result = subprocess.run([*node.entering(place), "ctr", "-n", "k8s.io", "image", "import", "-"],
                                    stdin=content, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise ClusterError(f"importing {archive} into cluster {place.name}: {result.stderr.strip()}")
        imported.append(reference)
    return imported
