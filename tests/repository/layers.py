"""Checks that the table of layers in ARCHITECTURE.md matches the manifests of the crates."""

import re
import tomllib
from collections.abc import Mapping

ARCHITECTURE = "ARCHITECTURE.md"
MANIFEST = re.compile(r"crates/([^/]+)/Cargo\.toml")
ROW = re.compile(r"\| (\d+) \| `([\w-]+)` \|")


def violations(texts: Mapping[str, str]) -> list[str]:
    """Returns a line for every violation. `texts` maps the paths of the tracked files to their texts.

    The table and the folder `crates` must contain the same crates. Each dependency of a crate, except for
    dev-dependencies, must be in a lower layer.
    """
    layers = {name: int(layer) for layer, name in ROW.findall(texts[ARCHITECTURE])}
    manifests = {match[1]: tomllib.loads(texts[path]) for path in texts if (match := MANIFEST.fullmatch(path))}
    found = [f"{ARCHITECTURE}: no layer for {name}" for name in sorted(manifests.keys() - layers.keys())]
    found += [f"{ARCHITECTURE}: no crate {name}" for name in sorted(layers.keys() - manifests.keys())]
    for name, manifest in sorted(manifests.items()):
        for dependency in sorted(manifest.get("dependencies", {})):
            has_layers = name in layers and dependency in layers
            if has_layers and layers[dependency] >= layers[name]:
                found.append(f"{name} (layer {layers[name]}) depends on {dependency} (layer {layers[dependency]})")
    return found
