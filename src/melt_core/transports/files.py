"""Push and pull over a device's shell: resumed after an interruption, and right by their hash.

    push   hash here -> what is there already? -> write the rest to NAME.HASH.part -> hash there -> rename
    pull   size and hash there -> what is here already? -> append the rest to NAME.HASH.part -> hash here -> rename

The name of the part file holds the content's hash, so that nothing is ever written after another file's beginning.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from melt_core.errors import DeviceError, InvalidArgumentError, StorageError, TransientDeviceError
from melt_core.transports.base import OnProgress, RunResult, Transfer
from melt_core.transports.paths import RemotePath
from melt_core.transports.process import Deadline, Output, RemoteProcess

if TYPE_CHECKING:
    from melt_core.transports.shell import ShellTransport

_CHUNK_BYTES = 1 << 20
_PROBE_KEYS = ("whole", "hash", "part")
SMALL_REPLY_BYTES = 64 << 10

#: size of $1; its hash if the size is $3 or $3 is empty; size of $2.
_PROBE = """LC_ALL=C; export LC_ALL
size_of() { stat -L -c %s "$1" 2>/dev/null || wc -c < "$1"; }
if [ -f "$1" ]; then
  size=$(size_of "$1") && echo "whole $size" || exit 1
  if [ -z "$3" ] || [ "$size" = "$3" ]; then
    if sum=$(sha256sum < "$1" 2>/dev/null); then echo "hash $sum"; fi
  fi
fi
if [ -n "$2" ] && [ -f "$2" ]; then echo "part $(size_of "$2")"; fi"""
#: Writes from block $3 on, over what is there: the same bytes, if a writer that a cut cable left behind still writes.
#: (Appending would put its last bytes behind ours.)
_WRITE_FROM = """LC_ALL=C; export LC_ALL
mkdir -p "$2" && exec 1<>"$1" && dd bs=65536 seek="$3" count=0 conv=notrunc </dev/null 2>/dev/null && exec cat"""
_BLOCK_BYTES = 65536
_READ_FROM = 'exec tail -c "+$2" "$1"'
_HASH = 'exec sha256sum < "$1"'
_READ = 'exec cat "$1"'
# Onto the disk before it gets its name: after a loss of power, what has the name is whole. Not every sync takes a file.
_PLACE = 'chmod "$3" "$1" && { sync "$1" 2>/dev/null || sync; } && exec mv -f "$1" "$2"'
_REMOVE = 'exec rm -f "$1"'


def push(
    transport: ShellTransport,
    source: Path,
    target: RemotePath,
    *,
    executable: bool,
    deadline: Deadline,
    on_progress: OnProgress | None,
) -> Transfer:
    """Pushes a file; see ``Transport.push``."""
    check_push_target(target)
    with open_source(source) as file:
        size, digest = _hash_of(file, deadline)
        part = target.with_suffix(f".{digest[:16]}.part")
        whole_path, part_path = transport.resolve(target), transport.resolve(part)
        found = _probe(transport, deadline, whole_path, part_path, str(size))
        if found.get("whole") == str(size) and _remote_hash(transport, deadline, whole_path, found) == digest:
            _place(transport, deadline, whole_path, whole_path, executable=executable)
            return Transfer(target, size, digest, 0, 0)
        begin = int(found.get("part", "0"))
        if begin > size:
            _script(transport, deadline, _REMOVE, part_path)
            begin = 0
        begin -= begin % _BLOCK_BYTES
        file.seek(begin)
        _send(transport, file, (part_path, transport.resolve(part.parent)), begin, size, deadline, on_progress)
        _check_pushed(transport, deadline, file, source, part_path, digest)
        _place(transport, deadline, part_path, whole_path, executable=executable)
    return Transfer(target, size, digest, size - begin, begin)


def pull(
    transport: ShellTransport,
    source: RemotePath,
    target: Path,
    *,
    max_bytes: int,
    deadline: Deadline,
    on_progress: OnProgress | None,
) -> Transfer:
    """Pulls a file; see ``Transport.pull``."""
    path = transport.resolve(source)
    found = _probe(transport, deadline, path, "", "")
    if "whole" not in found:
        raise DeviceError(f"there is no file {path} on {transport.uri}: list its folder to see what there is")
    size = int(found["whole"])
    if size > max_bytes:
        raise DeviceError(f"{path} on {transport.uri} has {size} bytes, more than the {max_bytes} allowed: max_bytes")
    digest = _remote_hash(transport, deadline, path, found)
    if target.is_file() and target.stat().st_size == size and hash_file(target, deadline)[1] == digest:
        return Transfer(source, size, digest, 0, 0)
    part = target.parent / f"{target.name[:200]}.{digest[:16]}.part"
    try:
        begin = part.stat().st_size if part.is_file() else 0
        if begin > size:
            part.unlink()
            begin = 0
        free = shutil.disk_usage(target.parent).free
        if size - begin > free:
            raise StorageError(f"{target.parent} has {free} bytes free and {size - begin} are to come: make room there")
        with part.open("ab") as file:
            _fetch(transport, path, file, begin, size, deadline, on_progress)
        if hash_file(part, deadline)[1] != digest:
            part.unlink()
            raise TransientDeviceError(f"{path} arrived damaged from {transport.uri} and was removed here: try again")
        part.replace(target)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError.from_os_error("write", str(target), error) from error
    return Transfer(source, size, digest, size - begin, begin)


def check_push_target(target: RemotePath) -> None:
    """Raises InvalidArgumentError for a target that can be no file."""
    if not target.parts:
        raise InvalidArgumentError("push needs a file name below the work directory, not the work directory itself")


def arrived_damaged(source: Path, uri: str) -> TransientDeviceError:
    """Returns the error of a push whose bytes are others at the device."""
    return TransientDeviceError(f"{source} arrived damaged on {uri} and was removed there: try again")


def outputs(process: RemoteProcess, stdin: memoryview, deadline: Deadline) -> Iterator[Output]:
    """Yields a program's output until it ends, while it is fed its input."""
    if not stdin:
        process.close_stdin()
    while process.exit_code is None:
        wait_s = deadline.slice_s()
        if stdin:
            stdin = stdin[process.offer(stdin, wait_s) :]
            wait_s = 0.0
            if not stdin:
                process.close_stdin()
        output = process.poll(wait_s)
        if output is not None:
            deadline.moved()
            yield output


def last_words(result: RunResult) -> str:
    """Returns the last line that a program wrote to standard error, or its exit code."""
    lines = result.stderr.decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:500] if lines else f"exit code {result.exit_code}"


def open_source(source: Path) -> BinaryIO:
    """Returns a file that is to be pushed, open. Raises StorageError; InvalidArgumentError if it is no file."""
    try:
        if source.exists() and not source.is_file():
            raise InvalidArgumentError(f"{source} is not a file: push its files one by one")
        return source.open("rb")
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError.from_os_error("read", str(source), error) from error


def _hash_of(file: BinaryIO, deadline: Deadline) -> tuple[int, str]:
    """Returns size and SHA-256 of an open file, from its beginning."""
    file.seek(0)
    digest = hashlib.sha256()
    size = 0
    while chunk := file.read(_CHUNK_BYTES):
        deadline.slice_s()
        deadline.moved()
        digest.update(chunk)
        size += len(chunk)
    return size, digest.hexdigest()


def hash_file(path: Path, deadline: Deadline) -> tuple[int, str]:
    """Returns size and SHA-256 of a file of the host."""
    with path.open("rb") as file:
        return _hash_of(file, deadline)


def _script(transport: ShellTransport, deadline: Deadline, script: str, *arguments: str) -> RunResult:
    """Runs one of the scripts above within what is left of the deadline."""
    return transport.run(
        ["sh", "-c", script, "melt", *arguments],
        timeout_s=deadline.left_s(),
        max_output_bytes=SMALL_REPLY_BYTES,
        cancel=deadline.cancel,
    )


def _probe(transport: ShellTransport, deadline: Deadline, whole: str, part: str, size: str) -> dict[str, str]:
    result = _script(transport, deadline, _PROBE, whole, part, size)
    deadline.moved()
    if result.exit_code != 0:
        raise DeviceError(f"cannot look at {whole} on {transport.uri}: {last_words(result)}")
    found: dict[str, str] = {}
    for line in result.stdout.decode("ascii", "replace").splitlines():
        key, _, value = line.partition(" ")
        value = value.strip().split(" ")[0]
        # What is taken over from here names a local file: nothing but digits gets through.
        if not re.fullmatch(r"[0-9a-f]{64}" if key == "hash" else r"[0-9]{1,19}", value) or key not in _PROBE_KEYS:
            raise DeviceError(f"{transport.uri} answered {line[:80]!r} when asked for the size of {whole}")
        found[key] = value
    return found


def _remote_hash(transport: ShellTransport, deadline: Deadline, path: str, found: dict[str, str] | None = None) -> str:
    """Returns the SHA-256 of a file of the device; where it has no sha256sum (Android 7), all of it is read back."""
    if found and "hash" in found:
        return found["hash"]
    if found is None:
        result = _script(transport, deadline, _HASH, path)
        value = result.stdout.decode("ascii", "replace").split(" ")[0].strip()
        if result.exit_code == 0 and re.fullmatch(r"[0-9a-f]{64}", value):
            return value
    digest = hashlib.sha256()
    process = transport.spawn(["sh", "-c", _READ, "melt", path])
    try:
        for output in outputs(process, memoryview(b""), deadline):
            if output.stream == "stdout":
                digest.update(output.data)
    finally:
        process.end()
    if process.exit_code != 0:
        raise DeviceError(f"cannot read {path} on {transport.uri} to check it: exit code {process.exit_code}")
    return digest.hexdigest()


def _send(
    transport: ShellTransport,
    file: BinaryIO,
    where: tuple[str, str],
    begin: int,
    size: int,
    deadline: Deadline,
    on_progress: OnProgress | None,
) -> None:
    """Sends the rest of a file to the part on the device; ``where`` is the part and its folder."""
    progress = _Progress(on_progress, begin, size)
    process = transport.spawn(["sh", "-c", _WRITE_FROM, "melt", *where, str(begin // _BLOCK_BYTES)])
    said = bytearray()
    rest = memoryview(b"")
    all_sent = False
    try:
        while process.exit_code is None:
            wait_s = deadline.slice_s()
            if not rest and not all_sent:
                rest = memoryview(file.read(_CHUNK_BYTES))
                if not rest:
                    all_sent = True
                    process.close_stdin()
            if rest:
                taken = process.offer(rest, wait_s)
                rest = rest[taken:]
                wait_s = 0.0
                if taken:
                    deadline.moved()
                    progress.add(taken)
            output = process.poll(wait_s)
            if output is not None and len(said) < SMALL_REPLY_BYTES:
                said += output.data
    finally:
        process.end()
    if process.exit_code != 0:
        result = RunResult(process.exit_code, b"", bytes(said), deadline.elapsed_s)
        raise _send_failed(transport, deadline, where[0], result)
    progress.done()


def _send_failed(transport: ShellTransport, deadline: Deadline, part: str, result: RunResult) -> DeviceError:
    if b"No space left" not in result.stderr:
        return DeviceError(f"cannot write {part} on {transport.uri}: {last_words(result)}")
    # A phone whose storage is full misbehaves: what arrived so far is not worth that.
    with contextlib.suppress(DeviceError):
        _script(transport, deadline, _REMOVE, part)
    return DeviceError(
        f"the storage of {transport.uri} is full: {part} did not fit and was removed; free space there, for example "
        "with `melt devices clean`"
    )


def _check_pushed(
    transport: ShellTransport, deadline: Deadline, file: BinaryIO, source: Path, part: str, digest: str
) -> None:
    if _remote_hash(transport, deadline, part) == digest:
        return
    with contextlib.suppress(DeviceError):
        _script(transport, deadline, _REMOVE, part)
    if _hash_of(file, deadline)[1] != digest:
        raise InvalidArgumentError(f"{source} changed while it was sent: push it when nothing writes to it")
    raise arrived_damaged(source, transport.uri)


def _place(transport: ShellTransport, deadline: Deadline, part: str, whole: str, *, executable: bool) -> None:
    mode = "755" if executable else "644"
    script = _PLACE if part != whole else 'exec chmod "$3" "$1"'
    result = _script(transport, deadline, script, part, whole, mode)
    if result.exit_code != 0:
        raise DeviceError(f"cannot move the file to {whole} on {transport.uri}: {last_words(result)}")


def _fetch(
    transport: ShellTransport,
    path: str,
    file: BinaryIO,
    begin: int,
    size: int,
    deadline: Deadline,
    on_progress: OnProgress | None,
) -> None:
    """Appends the rest of a file of the device to the part here."""
    progress = _Progress(on_progress, begin, size)
    process = transport.spawn(["sh", "-c", _READ_FROM, "melt", path, str(begin + 1)])
    said = bytearray()
    left = size - begin
    try:
        for output in outputs(process, memoryview(b""), deadline):
            if output.stream == "stderr":
                said += output.data[: SMALL_REPLY_BYTES - len(said)]
                continue
            left -= len(output.data)
            if left < 0:
                raise DeviceError(f"{path} on {transport.uri} is longer than the {size} bytes it said: still written?")
            file.write(output.data)
            progress.add(len(output.data))
    finally:
        process.end()
    assert process.exit_code is not None
    if process.exit_code != 0:
        result = RunResult(process.exit_code, b"", bytes(said), deadline.elapsed_s)
        raise DeviceError(f"cannot read {path} on {transport.uri}: {last_words(result)}")
    if left:
        raise TransientDeviceError(f"{path} on {transport.uri} ended {left} bytes early: try again")
    file.flush()
    os.fsync(file.fileno())
    progress.done()


class _Progress:
    """Tells how far a transfer is, about once per megabyte and at the end."""

    def __init__(self, on_progress: OnProgress | None, begin: int, size: int) -> None:
        self._on_progress = on_progress
        self._done = begin
        self._told = begin
        self._size = size

    def add(self, count: int) -> None:
        self._done += count
        if self._on_progress is not None and self._done - self._told >= _CHUNK_BYTES:
            self._told = self._done
            self._on_progress(self._done, self._size)

    def done(self) -> None:
        if self._on_progress is not None:
            self._on_progress(self._size, self._size)
