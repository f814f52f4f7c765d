"""File operations that several modules use: atomic writes, locks, digests."""

import contextlib
import fcntl
import hashlib
import json
import os
from pathlib import Path


def write(path: Path, text: str, mode: int = 0o644) -> None:
    """Writes a text atomically: readers see the old or the new text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(partial, path)


def write_json(path: Path, value, mode: int = 0o644) -> None:
    """Writes a value as indented JSON, atomically."""
    write(path, json.dumps(value, indent=2) + "\n", mode)


def read_json(path: Path):
    """Returns the JSON value in a file, or None when the file is missing or invalid."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


@contextlib.contextmanager
def locked(path: Path):
    """Holds an exclusive lock on a file. `up`, `down` and builds use locks to exclude one another."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def sha256(path: Path) -> str:
    """Returns the SHA-256 hash of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(paths, *texts: str) -> str:
    """Returns a hash of files (name and content) and texts: the key of a cached build."""
    total = hashlib.sha256()
    for path in sorted(paths):
        total.update(path.name.encode() + b"\0")
        total.update(hashlib.sha256(path.read_bytes()).digest())
    for text in texts:
        total.update(hashlib.sha256(text.encode()).digest())
    return total.hexdigest()[:16]


def tail(path: Path, lines: int = 20) -> str:
    """Returns the last lines of a log, for an error report."""
    try:
        return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
    except OSError:
        return "(no log)"
