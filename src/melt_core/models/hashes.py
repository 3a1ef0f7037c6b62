"""SHA-256 of models: what tells two apart. Remembered in the user's cache, as models are large and asked for often."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from melt_core.cache import cache_dir
from melt_core.errors import InvalidArgumentError, StorageError
from melt_core.models import pypi
from melt_core.trace.storage import written_atomically

#: Of files; an MLC model has one for every 32 MiB of parameters.
_MOST_REMEMBERED = 1024


def digest_of(model: Path) -> tuple[str, int]:
    """Returns SHA-256 and bytes of a model: a file, or a directory by names and hashes of its files in order.

    Raises:
        StorageError: It cannot be read.
        InvalidArgumentError: It is neither.
    """
    try:
        files = sorted(path for path in model.iterdir() if path.is_file()) if model.is_dir() else [model]
        n_bytes = sum(path.stat().st_size for path in files)
    except OSError as error:
        raise StorageError.from_os_error("read", str(model), error) from error
    return digest_of_files(files) if model.is_dir() else sha256_of(model), n_bytes


def digest_of_files(files: Sequence[Path]) -> str:
    """Returns one SHA-256 of names and contents. Raises: as `sha256_of` does."""
    digest = hashlib.sha256()
    for path, each in zip(files, _hashes(files), strict=True):
        digest.update(f"{path.name}\0{each}\0".encode())
    return digest.hexdigest()


def sha256_of(path: Path) -> str:
    """Returns a file's SHA-256; remembered by path, size and time of change.

    Raises:
        StorageError: It cannot be read.
        InvalidArgumentError: It is no regular file.
    """
    return _hashes([path])[0]


def _hashes(files: Sequence[Path]) -> list[str]:
    memory = cache_dir() / "hashes.json"
    known, found, fresh = _recalled(memory), [], {}
    for path in files:
        try:
            key = _identity(path)
            digest = known.get(key)
            if not isinstance(digest, str) or len(digest) != 64:
                digest = fresh[key] = pypi.sha256_of(path)
        except OSError as error:
            raise StorageError.from_os_error("read", str(path), error) from error
        found.append(digest)
    if fresh:
        _remember(memory, known | fresh)
    return found


def _identity(path: Path) -> str:
    status = path.stat()
    if not path.is_file():
        raise InvalidArgumentError(f"{path} is not a regular file")
    return f"{path.resolve()}|{status.st_size}|{status.st_mtime_ns}|{status.st_ino}"


def _recalled(memory: Path) -> dict[str, object]:
    try:
        known = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return known if isinstance(known, dict) else {}


def _remember(memory: Path, known: dict[str, object]) -> None:
    with contextlib.suppress(OSError, StorageError):  # where nothing can be kept, it is computed again
        memory.parent.mkdir(parents=True, exist_ok=True)
        with written_atomically(memory) as file:
            file.write(json.dumps(dict(list(known.items())[-_MOST_REMEMBERED:]), indent=1).encode())
