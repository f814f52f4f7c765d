"""The tracked text files of the repository."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Files that tools write. The rules for texts do not apply to them.
GENERATED = {"Cargo.lock", "go.mod", "go.sum"}


def tracked(root: Path = ROOT) -> dict:
    """Returns the texts of all tracked text files, by path relative to the root."""
    git = subprocess.run(["git", "ls-files", "-z"], cwd=root, check=True, capture_output=True, text=True)
    texts = {}
    for name in git.stdout.split("\0"):
        path = root / name
        # git lists a file that was deleted in the working tree until the deletion is staged.
        if not name or path.name in GENERATED or not path.is_file():
            continue
        try:
            texts[name] = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
    return texts
