"""Files that appear whole or not at all: a full disk or an interrupted write leaves the old file as it was."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
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
    try:
        target = os.path.realpath(name)
        if os.path.isdir(target):
            raise StorageError(f"cannot write {name}: it is a directory, name a file in it")
        if os.path.exists(target) and not stat.S_ISREG(os.stat(target).st_mode):
            with open(name, "wb") as file:
                yield file
            return
        with _temporary(target) as file:
            yield file
    except StorageError:
        raise
    except BrokenPipeError:
        raise
    except OSError as error:
        raise StorageError.from_os_error("write", name, error) from error
    except ValueError as error:
        if "\0" not in name:
            raise
        raise StorageError(f"cannot write {name!r}: {error}") from error


@contextlib.contextmanager
def _temporary(target: str) -> Iterator[BinaryIO]:
    mode = stat.S_IMODE(os.stat(target).st_mode) if os.path.exists(target) else None
    directory, base = os.path.split(target)
    temporary = os.path.join(directory, f".{base[:100]}.{secrets.token_hex(4)}.part")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o666)
    try:
        with open(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if mode is not None:
            os.chmod(temporary, mode)
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
