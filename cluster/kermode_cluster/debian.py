"""Debian packages as layers of images: selection with all dependencies, pinned versions, download, files.

The machine's apt selects and downloads packages, and checks their signatures. No maintainer script runs.
"""

import os
import re
import shutil
import stat
import tempfile
from pathlib import Path
from urllib.parse import unquote

from . import files, paths
from .errors import ClusterError
from .oci import Entry
from .processes import run

# A line of `apt-get --print-uris`: 'URI' NAME_VERSION_ARCHITECTURE.deb SIZE HASH. The file's name has escaped colons.
URI_LINE = re.compile(r"^'[^']*' ([^_ ]+)_([^_ ]+)_[^_ ]+\.deb \d+ ?\S*$")
# Folders that are links into /usr on Debian. Packages may still contain files at the old paths.
MERGED_FOLDERS = ("bin", "lib", "lib32", "lib64", "libx32", "sbin")
# Files that no program needs.
OMITTED = ("usr/share/doc/", "usr/share/doc-base/", "usr/share/info/", "usr/share/lintian/", "usr/share/locale/",
           "usr/share/man/", "usr/lib/systemd/", "etc/init.d/", "run/", "var/run/")


class UnavailableError(ClusterError):
    """A pinned version is neither in the cache nor in Debian's archive."""


def architecture() -> str:
    """Returns Debian's name of this machine's architecture."""
    return run("dpkg", "--print-architecture").strip()


def parse_uris(printed: str) -> dict:
    """Returns versions by package name from the output of `apt-get --print-uris`. Pure."""
    found = (URI_LINE.match(line) for line in printed.splitlines())
    return {match[1]: unquote(match[2]) for match in found if match}


def select(names: list) -> dict:
    """Returns the current versions of these packages and of all their dependencies, by name.

    apt gets an empty list of installed packages, so the result is the same on every machine with the same archive.
    """
    # apt keeps its parsed lists in this folder, so that later selections are fast.
    folder = paths.cache() / "packages" / "apt"
    folder.mkdir(parents=True, exist_ok=True)
    status = folder / "status"
    status.touch()
    command = ["apt-get", "-qq", "--yes", "--print-uris"]
    for option in (f"Dir::State::status={status}", f"Dir::Cache={folder}", "APT::Install-Recommends=false",
                   "Debug::NoLocking=true"):
        command += ["-o", option]
    selected = parse_uris(run(*command, "install", *names))
    missing = sorted(set(names) - set(selected))
    if missing:
        raise ClusterError(f"apt selects no package {missing[0]}: run apt-get update, and check the package's name")
    return selected


def deb(name: str, version: str) -> Path:
    """Returns the path of a package in the cache."""
    return paths.cache() / "packages" / f"{name}_{version.replace(':', '%3a')}_{architecture()}.deb"


def fetch(versions: dict) -> None:
    """Downloads the packages that the cache lacks; if apt's lists are outdated, updates them first."""
    missing = {name: version for name, version in versions.items() if not deb(name, version).exists()}
    if not missing:
        return
    try:
        download(missing)
    except ClusterError:
        try:
            run("apt-get", "-qq", "update")
            download(missing)
        except ClusterError as error:
            raise UnavailableError(str(error)) from error


def download(versions: dict) -> None:
    """Downloads packages into the cache."""
    folder = paths.cache() / "packages"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        pinned = [f"{name}={version}" for name, version in versions.items()]
        run("env", f"--chdir={temporary}", "apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", *pinned)
        by_name = {path.name.partition("_")[0]: path for path in Path(temporary).glob("*.deb")}
        for name, version in versions.items():
            if name not in by_name:
                raise ClusterError(f"apt-get download wrote no file for {name}={version}")
            # Files that were extracted from an earlier download may be those of another archive.
            shutil.rmtree(deb(name, version).with_suffix(""), ignore_errors=True)
            by_name[name].rename(deb(name, version))


def check_hashes(versions: dict, hashes: dict) -> None:
    """Raises ClusterError for a cached package that is not the pinned file."""
    for name, version in versions.items():
        found = files.sha256(deb(name, version))
        if found != hashes[name]:
            raise ClusterError(f"{deb(name, version)} has sha256 {found}, but images/applications.lock.json pins "
                               f"{hashes[name]}: delete the file, then try again")


def extract(name: str, version: str) -> Path:
    """Unpacks a package into the cache, unless that was done before. Returns the folder with its files."""
    archive = deb(name, version)
    folder = archive.with_suffix("")
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=archive.parent) as temporary:
            run("dpkg-deb", "--extract", archive, f"{temporary}/files")
            os.rename(f"{temporary}/files", folder)
    return folder


def merged(path: str) -> str:
    """Returns the path of a package's file below /usr, if its folder is a link into /usr. Pure."""
    return f"usr/{path}" if path.partition("/")[0] in MERGED_FOLDERS else path


def merged_links() -> list:
    """Returns the links into /usr, which a package's files at the old paths need."""
    return [Entry(folder, link=f"usr/{folder}") for folder in MERGED_FOLDERS]


def layer(versions: dict) -> list:
    """Returns entries for the files of packages. All files belong to root."""
    entries = {}
    for name, version in sorted(versions.items()):
        folder = extract(name, version)
        for path in sorted(folder.rglob("*")):
            target = merged(path.relative_to(folder).as_posix())
            if not f"{target}/".startswith(OMITTED):
                entries[target] = entry(path, target)
    for folder in ("usr", *MERGED_FOLDERS):
        entries.pop(folder, None)
    return list(entries.values())


def entry(path: Path, target: str) -> Entry:
    """Returns the entry for an unpacked file, link or folder."""
    if path.is_symlink():
        return Entry(target, link=os.readlink(path))
    mode = stat.S_IMODE(path.lstat().st_mode)
    return Entry(target, source=None if path.is_dir() else path, mode=mode)
