"""The shell services of the adb daemon: raw or on a terminal, with the shell protocol (v2) or without.

As in the real daemon: a raw command has one socket for both its input and its output, a command that ends by a signal
has the exit code 128 plus its number, and when the host goes away SIGHUP goes to the command (not to its children).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import signal
import socket
import struct
import subprocess
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fakes.adbd import Daemon, Stream

STDIN, STDOUT, STDERR, EXIT, CLOSE_STDIN = range(5)
_PACKET = struct.Struct("<BI")
_READ_BYTES = 1 << 16


def packet(kind: int, data: bytes) -> bytes:
    return _PACKET.pack(kind, len(data)) + data


async def serve(daemon: Daemon, stream: Stream, kind: list[str], command: str) -> None:
    """Runs one command; `kind` is the service's name split at its commas, such as shell, v2, raw."""
    v2 = "v2" in kind
    hijacked = daemon.faults.hijack(command)
    if hijacked is not None:
        await _lie(stream, hijacked, v2=v2)
        return
    on_terminal = "raw" not in kind and kind[0] != "exec"
    child, ours, errors = _start(daemon, command, on_terminal=on_terminal, own_stderr=v2 and not on_terminal)
    daemon.children.add(child.pid)
    try:
        await _converse(stream, child, ours, errors, v2=v2, on_terminal=on_terminal)
    finally:
        if child.poll() is None and not stream.closed.is_set():  # the daemon itself is ending
            child.kill()
        child.wait()
        daemon.children.discard(child.pid)


async def _converse(
    stream: Stream,
    child: subprocess.Popen[bytes],
    ours: socket.socket | _Terminal,
    errors: socket.socket | None,
    *,
    v2: bool,
    on_terminal: bool,
) -> None:
    """Hands on what both sides write, until one of them has gone."""
    loop = asyncio.get_running_loop()
    reads = [loop.create_task(_forward(ours, stream, STDOUT if v2 else None))]
    if errors is not None:
        reads.append(loop.create_task(_forward(errors, stream, STDERR)))
    feed = loop.create_task(_feed(stream, ours, v2=v2, on_terminal=on_terminal))
    gone = loop.create_task(stream.closed.wait())
    try:
        both = asyncio.gather(*reads, return_exceptions=True)
        await asyncio.wait([both, gone], return_when=asyncio.FIRST_COMPLETED)
        if stream.closed.is_set():
            with contextlib.suppress(ProcessLookupError):
                child.send_signal(signal.SIGHUP)
        else:
            code = await loop.run_in_executor(None, child.wait)
            if v2:
                await stream.write(packet(EXIT, bytes([code if code >= 0 else 128 - code])))
    finally:
        try:
            await _end([*reads, feed, gone])
        finally:
            ours.close()
            if errors is not None:
                errors.close()
    await loop.run_in_executor(None, child.wait)


async def _end(tasks: list[asyncio.Task[Any]]) -> None:
    """Returns, or is cancelled itself when the daemon ends, once all the tasks are over."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _lie(stream: Stream, pieces: Iterable[bytes], *, v2: bool) -> None:
    for piece in pieces:
        await stream.write(packet(STDOUT, piece) if v2 else piece)
    if v2:
        await stream.write(packet(EXIT, b"\0"))


class _Terminal:
    """The master side of a terminal, with the methods of a socket that are used here."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        os.set_blocking(fd, False)

    def fileno(self) -> int:
        return self._fd

    def recv(self, count: int) -> bytes:
        try:
            return os.read(self._fd, count)
        except BlockingIOError:
            raise
        except OSError:  # EIO: nobody holds the other side any more
            return b""

    def send(self, data: bytes) -> int:
        return os.write(self._fd, data)

    def close(self) -> None:
        os.close(self._fd)


def _start(
    daemon: Daemon, command: str, *, on_terminal: bool, own_stderr: bool
) -> tuple[subprocess.Popen[bytes], socket.socket | _Terminal, socket.socket | None]:
    argv = [*daemon.shell, command] if command else [daemon.shell[0]]
    errors: socket.socket | None = None
    if on_terminal:
        master, slave = pty.openpty()
        ours: socket.socket | _Terminal = _Terminal(master)
        streams = (slave, slave, slave)
        to_close = [slave]
    else:
        ours, theirs = socket.socketpair()
        errors, their_errors = socket.socketpair() if own_stderr else (None, theirs)
        streams = (theirs.fileno(), theirs.fileno(), their_errors.fileno())
        to_close = [end.detach() for end in {theirs, their_errors}]
        for end in (ours, errors):
            if end is not None:
                end.setblocking(False)
    try:
        child = subprocess.Popen(
            [os.fsencode(part) for part in argv],
            stdin=streams[0],
            stdout=streams[1],
            stderr=streams[2],
            cwd=daemon.root,
            start_new_session=True,
        )
    finally:
        for fd in to_close:
            os.close(fd)
    return child, ours, errors


async def _ready(end: socket.socket | _Terminal, *, to_write: bool) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    add, remove = (loop.add_writer, loop.remove_writer) if to_write else (loop.add_reader, loop.remove_reader)
    add(end.fileno(), lambda: ready.done() or ready.set_result(None))
    try:
        await ready
    finally:
        remove(end.fileno())


async def _forward(end: socket.socket | _Terminal, stream: Stream, kind: int | None) -> None:
    """Sends what the command writes to the host until the command has closed it."""
    while True:
        await _ready(end, to_write=False)
        try:
            data = end.recv(_READ_BYTES)
        except BlockingIOError:
            continue
        except ConnectionError:
            return
        if not data:
            return
        await stream.write(data if kind is None else packet(kind, data))


async def _feed(stream: Stream, end: socket.socket | _Terminal, *, v2: bool, on_terminal: bool) -> None:
    """Gives the command what the host writes."""
    buffer = bytearray()
    while data := await stream.read_some():
        if not v2:
            await _write(end, data)
            continue
        buffer += data
        while len(buffer) >= _PACKET.size:
            kind, length = _PACKET.unpack_from(buffer)
            if len(buffer) < _PACKET.size + length:
                if kind != STDIN:
                    break
                # A long packet is handed on in pieces, as it comes.
                part = bytes(buffer[_PACKET.size :])
                buffer[:] = _PACKET.pack(kind, length - len(part))
                await _write(end, part)
                break
            part = bytes(buffer[_PACKET.size : _PACKET.size + length])
            del buffer[: _PACKET.size + length]
            if kind == STDIN:
                await _write(end, part)
            elif kind == CLOSE_STDIN and not on_terminal and isinstance(end, socket.socket):
                end.shutdown(socket.SHUT_WR)


async def _write(end: socket.socket | _Terminal, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[end.send(rest) :]  # type: ignore[arg-type]
        except BlockingIOError:
            await _ready(end, to_write=True)
        except OSError:  # the command reads no more
            return
