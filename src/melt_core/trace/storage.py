"""Files that appear whole or not at all: a full disk or an interrupted write leaves the old file as it was."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from melt_core.errors import StorageError


@contextlib.contextmanager
def written_atomically(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Gives a file to write to, which takes the place of `path` when the block ends without an error.

    What is not a regular file (a pipe, /dev/stdout) is written to directly; a link is followed, not replaced.

    Raises:
        StorageError: if the system refuses; what was at `path` is then unchanged.
    """
    name = os.fspath(path)
    if "\0" in name:
        raise StorageError(f"cannot write {name!r}: a path holds no zero byte")
    try:
        target = Path(os.path.realpath(name))
        if target.is_dir():
            raise StorageError(f"cannot write {name}: it is a directory, name a file in it")
        mode = target.stat().st_mode if target.exists() else None
        if mode is not None and not stat.S_ISREG(mode):
            with Path(name).open("wb") as file:
                yield file
            return
        with _temporary(target, None if mode is None else stat.S_IMODE(mode)) as file:
            yield file
    except (StorageError, BrokenPipeError):
        raise
    except OSError as error:
        raise StorageError.from_os_error("write", name, error) from error


@contextlib.contextmanager
def _temporary(target: Path, mode: int | None) -> Iterator[BinaryIO]:
    temporary = target.with_name(f".{target.name[:100]}.{secrets.token_hex(4)}.part")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if mode is not None:
            temporary.chmod(mode)
        temporary.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    _keep_name(target.parent)


def _keep_name(folder: Path) -> None:
    """Waits until the new name is on the disk too: what it was made from may be removed next."""
    with contextlib.suppress(OSError):  # a folder that cannot be opened, or a file system that has no such thing
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
