"""Files of a kernel's /sys and /proc: those of this machine, those under another root, or a device's as a snapshot.

Parsers see one interface, so that a fixture, a recorded device and a live one are read by the same code.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Protocol

from melt_core.devices.telemetry.base import MAX_TEXT_BYTES

MAX_ENTRIES = 4096


class FileTree(Protocol):
    """Small text files by absolute path."""

    def read(self, path: str) -> str | None:
        """Returns a file's text without the ends of it; None where it is missing or refused."""
        ...

    def entries(self, path: str) -> list[str]:
        """Returns the names in a folder, sorted as people count (``policy2`` before ``policy10``); [] if none."""
        ...


class LocalTree:
    """Files under a root of this machine: "/" by default, ``MELT_SYSFS_ROOT`` for what begins with /sys."""

    def __init__(self, root: str | os.PathLike[str] = "/") -> None:
        """Reads below `root`."""
        self._root = Path(root)
        self._sysfs = os.environ.get("MELT_SYSFS_ROOT") if os.fspath(root) == "/" else None

    def _at(self, path: str) -> Path:
        if self._sysfs and path.startswith("/sys/"):
            return Path(self._sysfs) / path.removeprefix("/sys/")
        return self._root / path.lstrip("/")

    def read(self, path: str) -> str | None:
        """Returns a file's text; None where it is missing or refused."""
        try:
            with self._at(path).open("rb") as file:
                return file.read(MAX_TEXT_BYTES).decode("utf-8", "replace").strip()
        except (OSError, ValueError):
            return None

    def entries(self, path: str) -> list[str]:
        """Returns the names in a folder."""
        try:
            with os.scandir(self._at(path)) as scan:
                names = [entry.name for _, entry in zip(range(MAX_ENTRIES), scan, strict=False)]
        except (OSError, ValueError):
            return []
        return sorted(names, key=natural)


class SnapshotTree:
    """Files as they were when a device was asked, by path."""

    def __init__(self, files: Mapping[str, str]) -> None:
        """Keeps the texts; folders follow from the paths."""
        self._files = {path: text.strip() for path, text in files.items()}
        self._folders: dict[str, set[str]] = {}
        for path in self._files:
            child = PurePosixPath(path)
            for parent in child.parents:
                self._folders.setdefault(str(parent), set()).add(child.name)
                child = parent

    def read(self, path: str) -> str | None:
        """Returns a file's text; None where it was not there."""
        return self._files.get(str(PurePosixPath(path)))

    def entries(self, path: str) -> list[str]:
        """Returns the names in a folder."""
        return sorted(self._folders.get(str(PurePosixPath(path)), ()), key=natural)


def snapshot_of(listing: str, paths: list[str]) -> SnapshotTree:
    """Returns the tree that ``grep -sH "" PATH...`` printed as ``path:line``; lines of other paths are left out."""
    known = sorted(paths, key=len, reverse=True)
    by_head: dict[str, list[str]] = {}
    for path in known:
        by_head.setdefault(path[:12], []).append(path)
    files: dict[str, list[str]] = {}
    for line in listing.replace("\r", "").split("\n"):
        for path in by_head.get(line[:12], ()):
            if line.startswith(path + ":"):
                files.setdefault(path, []).append(line[len(path) + 1 :])
                break
    return SnapshotTree({path: "\n".join(lines) for path, lines in files.items()})


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """Returns a sort key under which digits count as numbers."""
    parts: list[tuple[int, int, str]] = []
    digits = ""
    for character in name + "\0":
        if character in "0123456789" and len(digits) < 18:
            digits += character
            continue
        if digits:
            parts.append((0, int(digits), ""))
            digits = ""
        parts.append((1, 0, character))
    return tuple(parts)
