"""A headless Chromium from Debian's package, with the libraries and a font that it needs, for tests of the page.

Nothing is installed on the machine: the packages are unpacked into the cache (170 MB, unpacked 560 MB).
"""

import os
import shutil
import stat
import tempfile
from pathlib import Path

from . import build, debian, files, paths
from .processes import run

PACKAGES = ["chromium-headless-shell", "fonts-dejavu-core"]
# The machine's own C library, because the machine's dynamic loader must match it.
LEFT_OUT = {"libc6", "libc-bin"}


def binary() -> Path:
    """Unpacks Chromium. Returns the path of a script that starts it, which is the same for all versions."""
    with files.locked(paths.cache() / "locks" / "packages.lock"):
        versions = {name: version for name, version in debian.select(PACKAGES).items() if name not in LEFT_OUT}
        folder = paths.cache() / "build" / f"chromium-{versions[PACKAGES[0]]}"
        if not folder.exists():
            debian.fetch(versions)
            unpack(versions, folder)
        return build.linked_tool("chromium", folder / "chromium")


def unpack(versions: dict, folder: Path) -> None:
    """Unpacks the packages into one folder, and writes the script."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        root = Path(temporary) / "files"
        for name, version in versions.items():
            run("dpkg-deb", "--extract", debian.deb(name, version), root)
        # Some packages have files at the old paths outside of /usr.
        for old in ("bin", "lib", "sbin"):
            if (root / old).is_dir():
                shutil.copytree(root / old, root / "usr" / old, symlinks=True, dirs_exist_ok=True)
        script = root / "chromium"
        script.write_text(start_script(folder))
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        os.rename(root, folder)


def start_script(folder: Path) -> str:
    """Returns the text of the script. Pure."""
    libraries = f"{folder}/usr/lib/$(uname -m)-linux-gnu"
    return f"""#!/bin/sh
libraries={libraries}
export LD_LIBRARY_PATH=$libraries:$libraries/nss:$libraries/pulseaudio FONTCONFIG_SYSROOT={folder}
exec {folder}/usr/lib/chromium/chromium-headless-shell "$@"
"""
