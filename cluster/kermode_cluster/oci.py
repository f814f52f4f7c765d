"""Writes OCI images. Layers are tar files with fixed order, owners and times, so the same content always has the same
digest. No daemon, no privileges, no base image."""

import hashlib
import io
import json
import os
import platform
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
LAYER = "application/vnd.oci.image.layer.v1.tar"
CONFIG = "application/vnd.oci.image.config.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"


@dataclass
class Entry:
    """Entry of a layer: a file from disk, a text, a folder or a link."""

    path: str
    source: Path = None
    text: str = None
    link: str = None
    mode: int = 0o755
    owner: int = 0


@dataclass
class Image:
    """Recipe of an image: layers of entries, user and command."""

    entrypoint: list
    layers: list
    user: str = "0:0"
    working_dir: str = "/"
    env: list = field(default_factory=list)
    labels: dict = field(default_factory=dict)
    volumes: list = field(default_factory=list)
    # Signal that ends the program; empty means SIGTERM.
    stop_signal: str = ""


def header(entry: Entry) -> tarfile.TarInfo:
    """Returns the tar header of an entry, without values that change between builds."""
    info = tarfile.TarInfo(entry.path.strip("/"))
    info.uid = info.gid = entry.owner
    info.mode = entry.mode
    info.mtime = 0
    if entry.link is not None:
        info.type, info.linkname, info.mode = tarfile.SYMTYPE, entry.link, 0o777
    elif entry.source is not None:
        info.size = entry.source.stat().st_size
    elif entry.text is not None:
        info.size = len(entry.text.encode())
    else:
        info.type = tarfile.DIRTYPE
    return info


def missing_parents(entries: list) -> list:
    """Returns the parent folders that are not entries themselves."""
    given = {entry.path.strip("/") for entry in entries}
    above = set()
    for path in given:
        parts = path.split("/")[:-1]
        above.update("/".join(parts[:count]) for count in range(1, len(parts) + 1))
    return [Entry(path) for path in above - given]


def write_layer(entries: list, folder: Path) -> dict:
    """Writes a layer as a blob into `folder`. Returns its descriptor."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".layer.{os.getpid()}"
    with tarfile.open(partial, "w", format=tarfile.PAX_FORMAT) as tar:
        for entry in sorted(entries + missing_parents(entries), key=lambda entry: entry.path.strip("/")):
            info = header(entry)
            if entry.source is not None:
                with open(entry.source, "rb") as content:
                    tar.addfile(info, content)
            else:
                tar.addfile(info, io.BytesIO((entry.text or "").encode()))
    with open(partial, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    size = partial.stat().st_size
    partial.rename(folder / digest)
    return {"mediaType": LAYER, "digest": f"sha256:{digest}", "size": size}


def write_blob(value: dict, media_type: str, folder: Path) -> dict:
    """Writes a JSON document as a blob. Returns its descriptor."""
    data = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    digest = hashlib.sha256(data).hexdigest()
    (folder / digest).write_bytes(data)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}


def configuration(image: Image, layers: list) -> dict:
    """Returns the configuration document of the image."""
    path = [] if any(variable.startswith("PATH=") for variable in image.env) else ["PATH=/usr/bin:/usr/sbin"]
    config = {"Entrypoint": image.entrypoint, "User": image.user, "WorkingDir": image.working_dir,
              "Env": path + image.env, "Labels": image.labels}
    if image.volumes:
        config["Volumes"] = {path: {} for path in image.volumes}
    if image.stop_signal:
        config["StopSignal"] = image.stop_signal
    machine = platform.machine()
    return {
        "architecture": ARCHITECTURES.get(machine, machine),
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]},
    }


def write_manifest(image: Image, folder: Path) -> dict:
    """Writes the blobs of an image into `folder`. Returns the descriptor of the manifest, and of all blobs."""
    layers = [write_layer(entries, folder) for entries in image.layers]
    config = write_blob(configuration(image, layers), CONFIG, folder)
    manifest = write_blob(
        {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers}, MANIFEST, folder)
    return {"manifest": manifest, "blobs": [manifest, config] + layers}


def write_archive(written: dict, blobs: Path, reference: str, archive: Path) -> None:
    """Packs an image into one OCI archive, which `ctr image import` and buildah read."""
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [
        dict(written["manifest"], annotations={
            "io.containerd.image.name": reference,
            "org.opencontainers.image.ref.name": reference.rpartition(":")[2],
        })]}
    entries = [Entry("oci-layout", text='{"imageLayoutVersion":"1.0.0"}', mode=0o644),
               Entry("index.json", text=json.dumps(index, sort_keys=True), mode=0o644)]
    seen = set()
    for blob in written["blobs"]:
        digest = blob["digest"].partition(":")[2]
        if digest not in seen:
            seen.add(digest)
            entries.append(Entry(f"blobs/sha256/{digest}", source=blobs / digest, mode=0o644))
    archive.parent.mkdir(parents=True, exist_ok=True)
    partial = archive.with_name(f".{archive.name}.{os.getpid()}")
    with tarfile.open(partial, "w", format=tarfile.PAX_FORMAT) as tar:
        for entry in entries:
            info = header(entry)
            if entry.source is not None:
                with open(entry.source, "rb") as content:
                    tar.addfile(info, content)
            else:
                tar.addfile(info, io.BytesIO(entry.text.encode()))
    partial.rename(archive)
