"""The sync service of the adb daemon: stat, listing, push and pull as the stock client does them (SYNC.TXT, v1, v2)."""

from __future__ import annotations

import errno
import os
import posixpath
import struct
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fakes.adbd import Daemon, Stream

_CHUNK_BYTES = 64 << 10
_MAX_PATH_BYTES = 1024
_STAT_V2 = struct.Struct("<I2Q4IQ3q")  # error, dev, ino, mode, nlink, uid, gid, size, atime, mtime, ctime


class _Reader:
    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._buffer = bytearray()

    async def exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            data = await self._stream.read_some()
            if not data:
                raise EOFError
            self._buffer += data
        part = bytes(self._buffer[:count])
        del self._buffer[:count]
        return part


async def serve(daemon: Daemon, stream: Stream) -> None:
    """Answers requests until the host quits or goes."""
    reader = _Reader(stream)
    try:
        while True:
            name, length = struct.unpack("<4sI", await reader.exactly(8))
            if name == b"QUIT" or length > _MAX_PATH_BYTES:
                return
            text = (await reader.exactly(length)).decode("utf-8", "surrogateescape")
            if name == b"SEND":
                await _receive(daemon, stream, reader, text)
            elif name == b"RECV":
                await _send(stream, _inside(daemon, text))
            elif name in (b"LIST", b"LIS2"):
                await _list(stream, _inside(daemon, text), v2=name == b"LIS2")
            elif name == b"STAT":
                await stream.write(b"STAT" + _stat_v1(_inside(daemon, text)))
            elif name in (b"STA2", b"LST2"):
                await stream.write(name + _stat_v2(_inside(daemon, text), follow=name == b"STA2"))
            else:
                await _fail(stream, f"unknown command {name!r}")
                return
    except EOFError:
        return


def _inside(daemon: Daemon, text: str) -> Path:
    """Returns the place of a device path below the root; ".." does not lead out of "/"."""
    return daemon.root / posixpath.normpath(f"/{text}").lstrip("/")


async def _fail(stream: Stream, message: str) -> None:
    await stream.write(b"FAIL" + struct.pack("<I", len(message)) + message.encode())


def _stat_v1(path: Path) -> bytes:
    try:
        found = path.lstat()
    except OSError:
        return bytes(12)  # the old protocol has no other way to say no
    return struct.pack("<3I", found.st_mode, found.st_size & 0xFFFFFFFF, int(found.st_mtime))


def _stat_v2(path: Path, *, follow: bool) -> bytes:
    try:
        found = path.stat() if follow else path.lstat()
    except OSError as error:
        return _STAT_V2.pack(error.errno or errno.EIO, *[0] * 10)
    return _STAT_V2.pack(
        0,
        found.st_dev,
        found.st_ino,
        found.st_mode,
        found.st_nlink,
        found.st_uid,
        found.st_gid,
        found.st_size,
        int(found.st_atime),
        int(found.st_mtime),
        int(found.st_ctime),
    )


async def _list(stream: Stream, folder: Path, *, v2: bool) -> None:
    names = sorted(os.listdir(folder)) if folder.is_dir() else []  # noqa: PTH208
    for name in [".", "..", *names] if folder.is_dir() else []:
        raw = os.fsencode(name)
        if v2:
            await stream.write(b"DNT2" + _stat_v2(folder / name, follow=False) + struct.pack("<I", len(raw)) + raw)
        else:
            await stream.write(b"DENT" + _stat_v1(folder / name) + struct.pack("<I", len(raw)) + raw)
    await stream.write(b"DONE" + bytes(_STAT_V2.size + 4 if v2 else 16))


async def _receive(daemon: Daemon, stream: Stream, reader: _Reader, text: str) -> None:
    name, _, mode = text.rpartition(",")
    path = _inside(daemon, name)
    problem = "No space left on device" if daemon.faults.disk_full else ""
    complete = False
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            while True:
                kind, value = struct.unpack("<4sI", await reader.exactly(8))
                if kind == b"DONE":
                    complete = not problem
                    break
                if kind != b"DATA" or value > _CHUNK_BYTES:
                    problem = problem or "invalid data message"
                    break
                data = await reader.exactly(value)
                if not problem:
                    file.write(data)
        if complete:
            path.chmod((int(mode) & 0o777) or 0o644)
            os.utime(path, (value, value))
    except OSError as error:
        problem = error.strerror or str(error)
        complete = False
    finally:
        if not complete:
            path.unlink(missing_ok=True)  # so does the real one: half a file is not left behind
    if problem:
        await _fail(stream, f"couldn't create file: {problem}")
    else:
        await stream.write(b"OKAY" + bytes(4))


async def _send(stream: Stream, path: Path) -> None:
    try:
        with path.open("rb") as file:
            while data := file.read(_CHUNK_BYTES):
                await stream.write(b"DATA" + struct.pack("<I", len(data)) + data)
    except OSError as error:
        await _fail(stream, f"open failed: {error.strerror}")
        return
    await stream.write(b"DONE" + bytes(4))
