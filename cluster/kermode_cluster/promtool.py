"""The tool that checks and tests rules of Prometheus, from the Debian package of the image `prometheus`.

A build of the Go module would take more than six minutes of CPU time, because promtool contains the clients of all clouds.
"""

from pathlib import Path

from . import applications, build, debian, files, paths


def binary() -> Path:
    """Unpacks the tool. Returns a path that is the same for all versions."""
    with files.locked(paths.cache() / "locks" / "packages.lock"):
        version = applications.fetch(["prometheus"], applications.recipes())["prometheus"]["prometheus"]
        return build.linked_tool("promtool", debian.extract("prometheus", version) / "usr" / "bin" / "promtool")
