"""The tracked text files of the repository."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Written by tools; their text is not the repository's.
GENERATED = {"Cargo.lock", "go.mod", "go.sum"}


def tracked(root: Path = ROOT) -> dict:
    """Returns the text of every tracked text file by its path, relative to the root."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, check=True, capture_output=True, text=True)
    texts = {}
    for name in listed.stdout.split("\0"):
        path = root / name
        # A file that is deleted in the working tree is still listed.
        if not name or path.name in GENERATED or not path.is_file():
            continue
        try:
            texts[name] = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
    return texts
