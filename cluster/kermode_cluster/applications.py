"""Images of ordinary applications from Debian packages, for tests.

`images/applications.json` has the recipes. `images/applications.lock.json` pins the packages of every image, with all
dependencies.
"""

import json
import sys
from pathlib import Path

from . import archives, debian, files, images, oci, paths
from .errors import ClusterError
from .oci import Entry, Image

RECIPES_FILE = paths.IMAGE_SOURCES / "applications.json"
LOCK_FILE = paths.IMAGE_SOURCES / "applications.lock.json"
OUTPUT = paths.IMAGE_OUTPUT / "applications"
# References of the built images, by name.
REFERENCES_FILE = OUTPUT / "images.json"
# Hash of the code that makes an image from packages.
TOOL = files.digest([Path(__file__), Path(debian.__file__), Path(oci.__file__)])
# Name in the lock of the packages that every image contains.
BASE = "base"


def recipes() -> dict:
    """Returns the recipes."""
    return json.loads(RECIPES_FILE.read_text(encoding="utf-8"))


def select_current(wanted: dict) -> dict:
    """Returns the current packages of every image, as {image: {package: version}}."""
    groups = {BASE: wanted["base"], **{name: recipe["packages"] for name, recipe in wanted["images"].items()}}
    without = set(wanted["without"])
    return {name: {package: version for package, version in debian.select(packages).items() if package not in without}
            for name, packages in groups.items()}


def pin() -> None:
    """Writes the lock with the current packages of Debian's archive."""
    selection = select_current(recipes())
    hashes = {}
    for versions in selection.values():
        debian.fetch(versions)
        hashes.update({name: files.sha256(debian.deb(name, version)) for name, version in versions.items()})
    locks = files.read_json(LOCK_FILE) or {}
    locks[debian.architecture()] = {"images": selection, "sha256": dict(sorted(hashes.items()))}
    files.write_json(LOCK_FILE, locks)


def fetch(names: list, wanted: dict) -> dict:
    """Downloads the packages of these images: the pinned versions, or the current ones if the archive no longer has the
    pinned ones. Returns {image: {package: version}}."""
    locked = (files.read_json(LOCK_FILE) or {}).get(debian.architecture())
    if locked and locked["images"].keys() == {BASE, *wanted["images"]}:
        try:
            for name in (BASE, *names):
                debian.fetch(locked["images"][name])
                debian.check_hashes(locked["images"][name], locked["sha256"])
            return locked["images"]
        except debian.UnavailableError as error:
            reason = str(error)
    else:
        reason = f"{LOCK_FILE.name} does not pin the packages of all images for {debian.architecture()}"
    print(f"the current packages of Debian are used, because {reason}; to pin them: make pin-application-packages",
          file=sys.stderr, flush=True)
    selection = select_current(wanted)
    for name in (BASE, *names):
        debian.fetch(selection[name])
    return selection


def image(name: str, recipe: dict, selection: dict) -> Image:
    """Returns an image: a layer that all images share, a layer with the application, and a layer with its users."""
    base = selection[BASE]
    own = {package: version for package, version in selection[name].items() if package not in base}
    user = next(iter(recipe["users"].values()))
    # On Debian, names in /etc/hosts precede DNS, and the maintainer script of mawk links awk.
    settings = [Entry("etc/nsswitch.conf", text="passwd: files\ngroup: files\nhosts: files dns\n", mode=0o644),
                Entry("usr/bin/awk", link="mawk")]
    return Image([], [debian.layer(base) + debian.merged_links(), debian.layer(own),
                      images.accounts(**recipe["users"]) + settings],
                 user=f"{user}:{user}", env=[f"PATH={recipe['path']}:/usr/bin:/usr/sbin"] if "path" in recipe else [],
                 stop_signal=recipe.get("stop-signal", ""))


def build(names: list) -> dict:
    """Builds those of the named images that changed. Returns their references by name."""
    wanted = recipes()
    for name in names:
        if name not in wanted["images"]:
            raise ClusterError(f"application image {name} has no recipe: see {RECIPES_FILE.name}")
    with files.locked(paths.cache() / "locks" / "packages.lock"):
        selection = fetch(names, wanted)
        OUTPUT.mkdir(parents=True, exist_ok=True)
        built = files.read_json(REFERENCES_FILE) or {}
        for name in names:
            # The versions of packages stand for their files, whose hashes would take longer than the import.
            content = {"tool": TOOL, "recipe": wanted["images"][name], "base": selection[BASE], "packages": selection[name]}
            record = OUTPUT / f"{name}.json"
            if name in built and archive_of(name).exists() and files.read_json(record) == content:
                continue
            built[name], _ = archives.pack(image(name, wanted["images"][name], selection),
                                           f"{images.REGISTRY}/app-{name}", images.version(), OUTPUT)
            files.write_json(record, content)
        files.write_json(REFERENCES_FILE, built)
    return {name: built[name] for name in names}


def archive_of(name: str) -> Path:
    """Returns the archive of an image."""
    return OUTPUT / f"app-{name}.tar"


def load(cluster: paths.ClusterPaths, names: list) -> list:
    """Builds the named images, and imports those that a cluster does not have. Returns the imported references."""
    return archives.load(cluster, [(reference, archive_of(name)) for name, reference in build(names).items()])
