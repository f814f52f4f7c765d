"""The table of layers in ARCHITECTURE.md against the crates' manifests."""

import re
import tomllib
from collections.abc import Mapping

ARCHITECTURE = "ARCHITECTURE.md"
MANIFEST = re.compile(r"crates/([^/]+)/Cargo\.toml")
ROW = re.compile(r"\| (\d+) \| `([\w-]+)` \|")


def violations(texts: Mapping[str, str]) -> list[str]:
    """Crates that are missing in the table or the tree, and dependencies that do not lead to a lower layer.

    `texts` maps paths to contents. Dev-dependencies may lead anywhere.
    """
    layers = {name: int(layer) for layer, name in ROW.findall(texts[ARCHITECTURE])}
    manifests = {match[1]: tomllib.loads(texts[path]) for path in texts if (match := MANIFEST.fullmatch(path))}
    found = [f"{ARCHITECTURE}: no layer for {name}" for name in sorted(manifests.keys() - layers.keys())]
    found += [f"{ARCHITECTURE}: no crate {name}" for name in sorted(layers.keys() - manifests.keys())]
    for name, manifest in sorted(manifests.items()):
        for dependency in sorted(manifest.get("dependencies", {})):
            if layers.get(dependency, 0) >= layers.get(name, len(texts)):
                found.append(f"{name} (layer {layers[name]}) depends on {dependency} (layer {layers[dependency]})")
    return found
