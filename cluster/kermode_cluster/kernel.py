"""Settings of the host's kernel that clusters need. The last `down` restores the earlier values."""

from pathlib import Path

from . import files, paths

# Smallest value of each setting. Nodes forward the packets of Pods. All processes of root share the inotify instances:
# a component of Kubernetes uses up to twelve, and each Envoy three; without a free one, Envoy and containerd fail.
MINIMA = {
    "/proc/sys/net/ipv4/ip_forward": 1,
    "/proc/sys/fs/inotify/max_user_instances": 1024,
}


def saved_values() -> Path:
    """Returns the file with the earlier values of the settings that clusters have raised."""
    return paths.cache() / "clusters" / ".kernel-settings.json"


def lock():
    """Holds the lock of the settings."""
    return files.locked(paths.cache() / "locks" / "kernel.lock")


def raise_to(minima: dict) -> None:
    """Raises the settings that are too low, and saves their earlier values."""
    with lock():
        saved = files.read_json(saved_values()) or {}
        for path, minimum in minima.items():
            value = int(Path(path).read_text(encoding="utf-8"))
            if value < minimum:
                saved.setdefault(path, value)
                files.write_json(saved_values(), saved)
                Path(path).write_text(str(minimum), encoding="utf-8")


def restore() -> None:
    """Restores the earlier values."""
    with lock():
        for path, value in (files.read_json(saved_values()) or {}).items():
            Path(path).write_text(str(value), encoding="utf-8")
        saved_values().unlink(missing_ok=True)
