"""Kermode's images: recipes, builds when the content changed, import into clusters, push to registries."""

import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import asdict
from pathlib import Path

from . import archives, envoy, files, libraries, paths
from .errors import ClusterError
from .oci import Entry, Image
from .processes import run

REGISTRY = "docker.io/kermode"
BINARIES = ("kuma-cp", "kuma-dp", "kuma-init", "kuma-cni", "kumactl", "kermode-demo")
PROXY_USER = 5678
DEMO_USER = 65532
# References of the built images, by name.
REFERENCES_FILE = paths.IMAGE_OUTPUT / "images.json"
# Fingerprints of the recipes that the archives were packed from, by name.
FINGERPRINTS_FILE = paths.IMAGE_OUTPUT / "fingerprints.json"


def version() -> str:
    """Returns the version of the workspace."""
    text = (paths.REPOSITORY / "Cargo.toml").read_text(encoding="utf-8")
    found = re.search(r'^\[workspace\.package\][^\[]*?^version = "([^"]+)"', text, re.MULTILINE | re.DOTALL)
    if not found:
        raise ClusterError("Cargo.toml has no version in [workspace.package]: restore it")
    return found[1]


def accounts(**users: int) -> list:
    """Returns the entries that every image has: passwd and group files with these users, and a world-writable /tmp."""
    lines = {"root": 0, **users}
    passwd = "".join(f"{name}:x:{number}:{number}::/:/sbin/nologin\n" for name, number in lines.items())
    group = "".join(f"{name}:x:{number}:\n" for name, number in lines.items())
    return [Entry("etc/passwd", text=passwd, mode=0o644), Entry("etc/group", text=group, mode=0o644),
            Entry("tmp", mode=0o1777)]


def recipes(binaries: Path) -> dict:
    """Returns images by name. Layers that rarely change come first, so that successive builds share them."""
    def program(name: str) -> Entry:
        return Entry(f"usr/bin/{name}", source=binaries / name)

    envoy_binary = envoy.binary()
    nft = Path(shutil.which("nft") or "/usr/sbin/nft")
    mesh_users = accounts(kuma=PROXY_USER)
    return {
        "kuma-cp": Image(["/usr/bin/kuma-cp"], [mesh_users + [program("kuma-cp")]],
                         user=f"{PROXY_USER}:{PROXY_USER}"),
        "kuma-dp": Image(["/usr/bin/kuma-dp"],
                         [[Entry("usr/bin/envoy", source=envoy_binary)] + libraries.of(envoy_binary),
                          mesh_users + [program("kuma-dp")]],
                         user=f"{PROXY_USER}:{PROXY_USER}"),
        # The init container sets rules, which requires root. In Kuma's manifests its command is kumactl.
        "kuma-init": Image(["/usr/bin/kuma-init"],
                           [[Entry("usr/sbin/nft", source=nft)] + libraries.of(nft),
                            mesh_users + [program("kuma-init"), Entry("usr/bin/kumactl", link="kuma-init")]],
                           user="0:0"),
        # The installer copies the folder to the nodes, where the plugin runs nft with the loader in the folder.
        "kuma-cni": Image(["/usr/bin/kuma-cni"],
                          [[Entry("opt/kuma-cni/nft", source=nft)] + libraries.beside(nft, "opt/kuma-cni"),
                           mesh_users + [program("kuma-cni")]],
                          user="0:0"),
        "kermode-demo": Image(["/usr/bin/kermode-demo"],
                              [accounts(demo=DEMO_USER) + [program("kermode-demo")]],
                              user=f"{DEMO_USER}:{DEMO_USER}"),
    }


def compile_binaries() -> Path:
    """Builds static release binaries. Returns their folder."""
    triple = host_triple()
    command = ["cargo", "build", "--release", "--target", triple,
               "--manifest-path", str(paths.REPOSITORY / "Cargo.toml")]
    for name in BINARIES:
        command += ["--package", name]
    environment = dict(os.environ, RUSTFLAGS=rustflags(triple), CARGO_TARGET_DIR=str(paths.TARGET))
    if subprocess.run(command, env=environment, check=False).returncode != 0:
        raise ClusterError("the release binaries do not compile: see cargo's message above")
    return paths.TARGET / triple / "release"


def host_triple() -> str:
    """Returns the target triple of this machine."""
    return next(line.split()[1] for line in run("rustc", "-vV").splitlines() if line.startswith("host:"))


def rustflags(triple: str) -> str:
    """Returns the compiler flags of the static binaries.

    The linker folds identical functions. Each crate has its own copy of a generic function that several crates use; folding
    makes kuma-cp 4 % and kuma-dp 3 % smaller. Only lld can fold functions, and it is the default linker only on x86-64.
    """
    flags = "-C target-feature=+crt-static"
    return f"{flags} -C link-arg=-Wl,--icf=all" if triple.startswith("x86_64-") else flags


def fingerprint(image: Image) -> str:
    """Returns a hash of a recipe and of all its files."""
    sources = {entry.source for layer in image.layers for entry in layer if entry.source}
    return files.digest(sources, repr(asdict(image)), version())


def build() -> dict:
    """Builds the images that changed. Returns the references of all images by name, as written to images.json."""
    fingerprints = files.read_json(FINGERPRINTS_FILE) or {}
    references = files.read_json(REFERENCES_FILE) or {}
    for name, image in recipes(compile_binaries()).items():
        current_fingerprint = fingerprint(image)
        archive = archive_of(name)
        if fingerprints.get(name) == current_fingerprint and name in references and archive.exists():
            continue
        paths.IMAGE_OUTPUT.mkdir(parents=True, exist_ok=True)
        references[name], _ = archives.pack(image, f"{REGISTRY}/{name}", version(), paths.IMAGE_OUTPUT)
        fingerprints[name] = current_fingerprint
    files.write_json(FINGERPRINTS_FILE, fingerprints)
    files.write_json(REFERENCES_FILE, references)
    return references


def archive_of(name: str) -> Path:
    """Returns the archive of an image."""
    return paths.IMAGE_OUTPUT / f"{name}.tar"


def show(references: dict) -> None:
    """Prints references and sizes."""
    for name, reference in references.items():
        print(f"{reference:55}{archive_of(name).stat().st_size / 2**20:8.1f} MiB")


def built_references() -> dict:
    """Returns references of the built images."""
    references = files.read_json(REFERENCES_FILE)
    if not references or not all(archive_of(name).exists() for name in references):
        raise ClusterError("no images are built: run make images")
    return references


def load(cluster: paths.ClusterPaths) -> list:
    """Imports the images that a cluster does not have. Returns the imported references."""
    return archives.load(cluster, [(reference, archive_of(name)) for name, reference in built_references().items()])


def push(registry: str) -> dict:
    """Pushes the images to a registry, or to `oci:FOLDER`, with buildah. Returns the references, and writes them to
    pushed.json."""
    if not shutil.which("buildah"):
        raise ClusterError("buildah is missing: apt-get install buildah")
    pushed = {}
    with tempfile.TemporaryDirectory(dir=paths.IMAGE_OUTPUT) as storage:
        buildah = ("buildah", "--storage-driver", "vfs", "--root", f"{storage}/root", "--runroot", f"{storage}/run")
        # Without this setting, buildah creates /etc/cni on the host, although a push needs no container network.
        settings = Path(storage) / "containers.conf"
        settings.write_text(f'[network]\nnetwork_config_dir = "{storage}/networks"\n', encoding="utf-8")
        environment = dict(os.environ, CONTAINERS_CONF=str(settings))
        for name, reference in built_references().items():
            tag = reference.rpartition(":")[2]
            target = f"{registry}/{name}:{tag}"
            destination = target if registry.startswith("oci:") else f"docker://{target}"
            if registry.startswith("oci:"):
                Path(registry.partition(":")[2]).mkdir(parents=True, exist_ok=True)
            identifier = run(*buildah, "pull", "--quiet", f"oci-archive:{archive_of(name)}", env=environment).strip()
            run(*buildah, "push", "--quiet", identifier, destination, env=environment)
            pushed[name] = target
    files.write_json(paths.IMAGE_OUTPUT / "pushed.json", pushed)
    return pushed
