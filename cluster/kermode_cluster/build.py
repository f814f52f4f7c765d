"""Cached builds of the Go programs, keyed by a hash of all inputs."""

import os
import shutil
from pathlib import Path

from . import files, paths
from .errors import ClusterError
from .processes import run

COMPONENTS = (
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kube-proxy",
    "kubelet",
    "kubectl",
)


def kubernetes_version() -> str:
    """Returns the Kubernetes version that go.mod requires, such as v1.34.4."""
    for line in (paths.CLUSTER_SOURCES / "kubernetes" / "go.mod").read_text(encoding="utf-8").splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == "k8s.io/kubernetes":
            return words[1]
    raise ClusterError("cluster/kubernetes/go.mod requires no k8s.io/kubernetes: restore that line")


def version_flags(version: str) -> str:
    """Returns the linker flags that set the server's version. Clients cannot parse the default version."""
    major, minor = version.lstrip("v").split(".")[:2]
    package = "k8s.io/component-base/version"
    return f"-X {package}.gitVersion={version} -X {package}.gitMajor={major} -X {package}.gitMinor={minor}"


def go_program(name: str, linker_flags: str = "", package: str = ".") -> Path:
    """Builds the program of a folder below `cluster/`, or a package of a module that the folder's go.mod requires, unless
    the cache contains a build of the same inputs. Returns the path of the binary."""
    source = paths.CLUSTER_SOURCES / name
    name = source.name
    flags = f"-s -w {linker_flags}".strip()
    inputs = [path for path in source.iterdir() if path.suffix in (".go", ".mod", ".sum")]
    go = shutil.which("go")
    if not go:
        raise ClusterError("Go is missing: install Go 1.26 or later (https://go.dev/dl) and put it on PATH")
    key = files.digest(inputs, flags, run(go, "version"))
    folder = paths.cache() / "build" / f"{name}-{key}"
    binary = folder / name
    if binary.exists():
        return binary
    with files.locked(paths.cache() / "locks" / f"build-{name}.lock"):
        if not binary.exists():
            note = " (the first build takes several minutes)" if name in ("kubernetes", "helm") else ""
            print(f"building {name}{note} ...", flush=True)
            folder.mkdir(parents=True, exist_ok=True)
            partial = folder / f".{name}.partial"
            environment = dict(os.environ, CGO_ENABLED="0", GOWORK="off")
            run(go, "build", "-C", source, "-trimpath", "-buildvcs=false", "-ldflags", flags,
                "-o", partial, package, env=environment)
            partial.rename(binary)
    return binary


def kubernetes() -> Path:
    """Builds Kubernetes. Returns a folder with a link for each component; all links lead to one binary."""
    binary = go_program("kubernetes", version_flags(kubernetes_version()))
    for component in COMPONENTS:
        link = binary.parent / component
        if not link.is_symlink():
            partial = binary.parent / f".{component}.{os.getpid()}"
            partial.symlink_to(binary.name)
            partial.replace(link)
    return binary.parent


def coredns() -> Path:
    """Builds CoreDNS. Returns the path of the binary."""
    return go_program("coredns")


def cnitool() -> Path:
    """Builds the tool of the CNI specification that calls plugins. Returns a path that is the same for all versions."""
    return linked_tool("cnitool", go_program("cnitool", package="github.com/containernetworking/cni/cnitool"))


def helm() -> Path:
    """Builds Helm. Returns a path that is the same for all versions."""
    return linked_tool("helm", go_program("helm", package="helm.sh/helm/v4/cmd/helm"))


def linked_tool(name: str, binary: Path) -> Path:
    """Makes a link to the binary of a tool. Returns the path of the link, which is the same for all versions."""
    link = paths.cache() / "tools" / name
    link.parent.mkdir(parents=True, exist_ok=True)
    partial = link.with_name(f".{name}.{os.getpid()}")
    partial.symlink_to(binary)
    partial.replace(link)
    return link


def pause() -> Path:
    """Builds the sandbox process from images/pause. Returns the path of the binary."""
    source = paths.IMAGE_SOURCES / "pause" / "pause.c"
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        raise ClusterError("a C compiler is missing: apt-get install gcc libc6-dev")
    flags = ["-Os", "-static", "-s", "-Wall", "-Wextra", "-Werror"]
    key = files.digest([source], " ".join(flags), run(compiler, "--version"))
    binary = paths.cache() / "build" / f"pause-{key}" / "pause"
    if not binary.exists():
        binary.parent.mkdir(parents=True, exist_ok=True)
        partial = binary.with_name(f".pause.{os.getpid()}")
        run(compiler, *flags, "-o", partial, source)
        partial.rename(binary)
    return binary
