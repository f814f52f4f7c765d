"""Checks the prerequisites of a cluster. Each error is one sentence with its remedy."""

import os
import shutil
from pathlib import Path

from . import paths
from .errors import ClusterError
from .mounts import OVERLAID_FOLDERS
from .processes import run

# Command (or file) → the Debian package that contains it.
NODE_COMMANDS = {
    "etcd": "etcd-server",
    "ip": "iproute2",
    "nft": "nftables",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "mount": "mount",
    "openssl": "openssl",
}
POD_COMMANDS = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "/usr/lib/cni/ptp": "containernetworking-plugins",
}


def missing_packages(commands: dict, exists) -> list:
    """Returns the packages of commands that `exists` does not find. Pure."""
    return sorted({package for command, package in commands.items() if not exists(command)})


def exists(command: str) -> bool:
    """Whether a command is on PATH, or a file exists."""
    return Path(command).exists() if command.startswith("/") else shutil.which(command) is not None


def has_overlayfs() -> bool:
    """Whether the kernel has overlayfs, built in or as a module."""
    def listed() -> bool:
        return "overlay" in Path("/proc/filesystems").read_text(encoding="utf-8").split()
    if not listed() and shutil.which("modprobe"):
        run("modprobe", "overlay", check=False)
    return listed()


def check(api_only: bool) -> None:
    """Raises ClusterError for the first missing prerequisite."""
    if os.geteuid() != 0:
        raise ClusterError("a cluster needs root (namespaces, mounts, cgroups): run this command with sudo -E")
    commands = NODE_COMMANDS if api_only else {**NODE_COMMANDS, **POD_COMMANDS}
    missing = missing_packages(commands, exists)
    if missing:
        raise ClusterError(f"Debian packages are missing: apt-get install {' '.join(missing)} "
                           "(or run cluster/install-packages)")
    if not has_overlayfs():
        raise ClusterError("the kernel has no overlayfs, which nodes and containers need: "
                           "enable CONFIG_OVERLAY_FS or use another machine")
    cache = paths.cache()
    existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
    if any(cache.is_relative_to(target) for target in OVERLAID_FOLDERS) or \
            run("stat", "--file-system", "--format=%T", existing).strip() == "overlayfs":
        raise ClusterError(f"{cache} is on an overlay, or in a folder that nodes overlay: "
                           "set KERMODE_CACHE to a folder on a real disk outside /etc, /opt and /var/lib")
