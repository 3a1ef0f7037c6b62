"""Files that appear whole or not at all, and what may not be read or written: looked at before anything is opened."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from melt_core.errors import InvalidArgumentError, StorageError
from melt_core.trace.format import TRACE_MAGIC

_STANDARD = {"/dev/stdout": 1, "/dev/stderr": 2}


@contextlib.contextmanager
def written_atomically(
    path: str | os.PathLike[str], *, inputs: Iterable[str | os.PathLike[str] | None] = ()
) -> Iterator[BinaryIO]:
    """Gives a file to write to, which takes the place of `path` when the block ends without an error.

    What is not a regular file (a pipe, /dev/stdout) is written to directly; a link is followed, not replaced.

    Args:
        path: The file to write.
        inputs: What it is made from: none of these may be `path`; what is None or no file is passed over.

    Raises:
        InvalidArgumentError: if `path` is one of the inputs.
        StorageError: if the system refuses; what was at `path` is then unchanged.
    """
    name = checked_name("write", path)
    refuse_inputs(name, inputs)
    try:
        descriptor = _own_descriptor(name)
        if descriptor is not None:
            with os.fdopen(os.dup(descriptor), "wb") as file:
                yield file
            return
        mode = _mode_of(name)
        if mode is not None and stat.S_ISDIR(mode):
            raise StorageError(f"cannot write {name}: it is a directory, name a file in it")
        if mode is not None and not stat.S_ISREG(mode):
            with Path(name).open("wb") as file:
                yield file
            return
        with _temporary(Path(os.path.realpath(name)), None if mode is None else stat.S_IMODE(mode)) as file:
            yield file
    except (StorageError, BrokenPipeError):
        raise
    except OSError as error:
        raise StorageError.from_os_error("write", name, error) from error


def checked_name(action: str, path: str | os.PathLike[str]) -> str:
    """Returns a path as text.

    Raises:
        InvalidArgumentError: It is no path.
        StorageError: It is empty, or holds a character that no name does.
    """
    try:
        name = os.fsdecode(path)
    except TypeError as error:
        raise InvalidArgumentError(f"cannot {action} {path!a}: give a path") from error
    if not name:
        raise StorageError(f"cannot {action} '': the name is empty, name a file")
    if "\0" in name:
        raise StorageError(f"cannot {action} {name!r}: a path holds no zero byte")
    try:
        os.fsencode(name)
    except UnicodeEncodeError as error:
        raise StorageError(f"cannot {action} {name!r}: character {error.start} cannot be in a file's name") from error
    return name


def refuse_inputs(path: str | os.PathLike[str], inputs: Iterable[str | os.PathLike[str] | None]) -> None:
    """Raises InvalidArgumentError if `path` is the same file as one of `inputs`, whatever the two are called."""
    for name in inputs:
        try:
            is_same = name is not None and Path(path).samefile(name)
        except (OSError, ValueError):  # one of them is not there, or no file at all
            continue
        if is_same:
            raise InvalidArgumentError(f"cannot write {os.fspath(path)}: the output is the input; name another file")


def check_trace_output(path: str | os.PathLike[str], *, inputs: Iterable[str | os.PathLike[str] | None] = ()) -> str:
    """Returns the name of a trace that can be recorded to, before anything is loaded for it.

    Args:
        path: Where the trace is to go: a new file, or an older trace, which it will replace.
        inputs: What it is made from, such as the model.

    Raises:
        InvalidArgumentError: It is one of the inputs, or a file of another kind, which would be lost.
        StorageError: It is no regular file, there is no such directory, or the system refuses.
    """
    name = checked_name("write", path)
    refuse_inputs(name, inputs)
    try:
        mode = _mode_of(name)
        if mode is None:
            if not Path(name).parent.is_dir():
                raise StorageError(
                    f"cannot write {name}: there is no directory {Path(name).parent}; choose a directory that exists"
                )
            _check_access(Path(name).parent, name)
            return name
        if stat.S_ISDIR(mode):
            raise StorageError(f"cannot write {name}: it is a directory; choose a directory and a file name")
        if not stat.S_ISREG(mode):
            raise StorageError(f"cannot write {name}: it is not a regular file; record to a file on a disk")
        _check_access(Path(name), name)
        with Path(name).open("rb") as file:
            begin = file.read(len(TRACE_MAGIC))
    except StorageError:
        raise
    except OSError as error:
        raise StorageError.from_os_error("write", name, error) from error
    if begin != TRACE_MAGIC[: len(begin)]:
        raise InvalidArgumentError(f"cannot write {name}: the file there is not a trace; name another file")
    return name


def check_regular(path: str | os.PathLike[str], what: str) -> None:
    """Raises StorageError for a file that is not regular: to open a pipe would wait for somebody to write to it."""
    name = checked_name("read", path)
    try:
        mode = _mode_of(name)
    except OSError as error:
        raise StorageError.from_os_error("read", name, error) from error
    if mode is not None and not stat.S_ISREG(mode):
        raise StorageError(f"cannot read {name}: it is not a regular file; save {what} to disk and name that")


def is_stream(path: str | os.PathLike[str]) -> bool:
    """Tells whether what is written to `path` goes on to somebody, as through a pipe or by standard output."""
    mode = _mode_of(os.fspath(path))
    return _own_descriptor(os.fspath(path)) is not None or (mode is not None and not stat.S_ISREG(mode))


def _mode_of(name: str) -> int | None:
    """Returns the mode of what a name leads to; None if there is nothing. The name as given: that of a pipe behind
    /dev/stdout, once resolved, is none that can be opened."""
    try:
        return Path(name).stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None


def _check_access(place: Path, name: str) -> None:
    if not os.access(place, os.W_OK):
        raise StorageError(f"cannot write {name}: {os.strerror(errno.EACCES)}")


def _own_descriptor(name: str) -> int | None:
    """Returns the descriptor that a name stands for: opened anew it would cut off, or write over, what is there."""
    if name in _STANDARD:
        return _STANDARD[name]
    folder, _, number = name.rpartition("/")
    return int(number) if folder in ("/dev/fd", "/proc/self/fd") and number.isdecimal() else None


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
