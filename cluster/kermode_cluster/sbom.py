"""Software bills of materials (SBOM) in CycloneDX format: the components of each program, with versions and licences.

The same sources give the same files: components are sorted, and there are no times and no random identifiers.
"""

import json
import os
import subprocess
from pathlib import Path

from . import envoy, files, images, paths
from .errors import ClusterError

OUTPUT = paths.TARGET / "sbom"
FORMAT_VERSION = "1.6"


def metadata() -> dict:
    """Returns cargo's metadata for this machine's platform, with the locked versions."""
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", images.host_triple()]
    result = subprocess.run(command, cwd=paths.REPOSITORY, env=os.environ, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise ClusterError(f"cargo metadata fails: {result.stderr.strip()}")
    return json.loads(result.stdout)


def packages(data: dict, program: str) -> list:
    """Returns the packages that a program is linked with, sorted by name and version. Pure.

    Dependencies of tests and of build scripts are not part of the program.
    """
    by_id = {package["id"]: package for package in data["packages"]}
    nodes = {node["id"]: node for node in data["resolve"]["nodes"]}
    members = set(data["workspace_members"])
    roots = [identifier for identifier in members if by_id[identifier]["name"] == program]
    if not roots:
        raise ClusterError(f"the workspace has no package {program}")
    found, pending = set(), list(roots)
    while pending:
        identifier = pending.pop()
        if identifier in found:
            continue
        found.add(identifier)
        pending += [dependency["pkg"] for dependency in nodes[identifier]["deps"]
                    if any(kind["kind"] is None for kind in dependency["dep_kinds"])]
    return sorted((by_id[identifier] for identifier in found - set(roots)),
                  key=lambda package: (package["name"], package["version"]))


def component(package: dict) -> dict:
    """Returns the component of a package of cargo. Pure."""
    result = {"type": "library", "name": package["name"], "version": package["version"],
              "bom-ref": f"pkg:cargo/{package['name']}@{package['version']}"}
    # A package without a source is a crate of this repository.
    if package["source"]:
        result["purl"] = result["bom-ref"]
    if package["license"]:
        # `/` is an old form of `OR`.
        result["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
    return result


def envoy_component() -> dict:
    """Returns the component of Envoy, which the image of the sidecar contains."""
    pinned = envoy.pin()
    return {"type": "application", "name": "envoy", "version": pinned["version"],
            "bom-ref": f"pkg:pypi/{pinned['package']}@{pinned['version']}",
            "purl": f"pkg:pypi/{pinned['package']}@{pinned['version']}",
            "licenses": [{"expression": "Apache-2.0"}]}


def document(program: str, version: str, components: list) -> dict:
    """Returns the SBOM of a program. Pure."""
    return {
        "bomFormat": "CycloneDX",
        "specVersion": FORMAT_VERSION,
        "version": 1,
        "metadata": {"component": {"type": "application", "name": program, "version": version, "bom-ref": program,
                                   "licenses": [{"expression": "Apache-2.0"}]}},
        "components": components,
        "dependencies": [{"ref": program, "dependsOn": [each["bom-ref"] for each in components]}],
    }


def licence_lines(components: list) -> list:
    """Returns a line for each component that is not of this repository: name, version, licence. Pure."""
    third_party = {(each["name"], each["version"], each["licenses"][0]["expression"] if "licenses" in each else "none")
                   for each in components if "purl" in each}
    return [" ".join(line) for line in sorted(third_party)]


def write() -> list:
    """Writes the SBOM of each program, and the list of third-party licences. Returns the paths."""
    data, version, written, everything = metadata(), images.version(), [], []
    OUTPUT.mkdir(parents=True, exist_ok=True)
    for program in images.BINARIES:
        components = [component(package) for package in packages(data, program)]
        if program == "kuma-dp":
            components.append(envoy_component())
        everything += components
        written.append(OUTPUT / f"{program}.cdx.json")
        files.write_json(written[-1], document(program, version, components))
    written.append(Path(OUTPUT / "licences.txt"))
    written[-1].write_text("\n".join(licence_lines(everything)) + "\n", encoding="utf-8")
    return written
