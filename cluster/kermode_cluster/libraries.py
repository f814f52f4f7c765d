"""Shared libraries and loader of a dynamic program, as image entries."""

import re
from pathlib import Path

from .errors import ClusterError
from .oci import Entry
from .processes import run

# A line of ldd that names a file: "name => PATH (ADDRESS)", or "PATH (ADDRESS)" for the loader.
LDD_LINE = re.compile(r"^\s*(?:\S+ => )?(/\S+) \(0x[0-9a-f]+\)$")


def parse_ldd(ldd_output: str) -> list:
    """Returns the paths in ldd's output, including the loader. Pure."""
    missing = [line.split()[0] for line in ldd_output.splitlines() if "not found" in line]
    if missing:
        raise ClusterError(f"shared libraries are missing: {', '.join(missing)}: install the packages with these files")
    return [match[1] for match in map(LDD_LINE.match, ldd_output.splitlines()) if match]


def of(program: Path) -> list:
    """Returns entries at the paths where the program's loader finds them."""
    return [Entry(path, source=Path(path).resolve()) for path in parse_ldd(run("ldd", program))]


def beside(program: Path, folder: str) -> list:
    """Returns entries in one folder, for a program that is started with the loader in this folder."""
    return [Entry(f"{folder}/{Path(path).name}", source=Path(path).resolve())
            for path in parse_ldd(run("ldd", program))]
