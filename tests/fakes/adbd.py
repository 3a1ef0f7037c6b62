"""An adb daemon: the device's side of adb, for the stock adb server to talk to, with faults on demand.

It speaks the transport protocol over TCP (CNXN, OPEN, OKAY, WRTE, CLSE; system/core/adb/protocol.txt) and runs
services: `shell` (v1, v2, raw, pty) and `exec` in `adbd_shell`, `sync` in `adbd_sync`. One write per stream is on its
way at a time, as in the real one. What it leaves out: TLS, RSA keys (a device is authorised or not), reverse
forwarding, compressed transfers.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import struct
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from fakes import adbd_shell, adbd_sync

_HEADER = struct.Struct("<6I")
_VERSION = 0x01000001  # from this one on, checksums are not looked at
_MAX_DATA = 1 << 20
_TOKEN, _SIGNATURE = 1, 2
_FEATURES = "shell_v2,cmd,stat_v2,ls_v2,fixed_push_mkdir"

T = TypeVar("T")


def _command(name: bytes) -> int:
    return int.from_bytes(name, "little")


CNXN, AUTH, OPEN, OKAY, WRTE, CLSE = (_command(name) for name in (b"CNXN", b"AUTH", b"OPEN", b"OKAY", b"WRTE", b"CLSE"))


@dataclass
class Faults:
    """What goes wrong; may be changed at any time."""

    state: Literal["device", "offline", "unauthorized"] = "device"
    #: The cable is pulled when so many more payload bytes have come from, or gone to, the host.
    drop_after_received: int | None = None
    drop_after_sent: int | None = None
    #: Before each message to the host.
    delay_s: float = 0.0
    #: What `sync` says to a file that is sent.
    disk_full: bool = False
    #: A hostile device: given the command, what it prints instead of running it (and then ends with 0), or None.
    hijack: Callable[[str], Iterable[bytes] | None] = field(default=lambda command: None)


class Gone(Exception):  # noqa: N818
    """The stream or the connection is closed."""


class Stream:
    """One stream of a connection, opened by the host for one service."""

    def __init__(self, link: Link, local_id: int, remote_id: int) -> None:
        self._link = link
        self._ids = (local_id, remote_id)
        self._buffer = bytearray()
        self._arrived = asyncio.Event()
        self._taken = asyncio.Event()
        self._writing = asyncio.Lock()  # stdout and stderr share the stream, and one message is on its way at a time
        self.closed = asyncio.Event()

    def feed(self, data: bytes) -> None:
        self._buffer += data
        self._arrived.set()

    def acknowledge(self) -> None:
        self._taken.set()

    def close(self) -> None:
        for event in (self.closed, self._arrived, self._taken):
            event.set()

    async def read_some(self) -> bytes:
        """Returns what the host wrote, at least one byte; empty at the end."""
        while not self._buffer:
            if self.closed.is_set():
                return b""
            self._arrived.clear()
            await self._arrived.wait()
        data = bytes(self._buffer)
        self._buffer.clear()
        # Only what was read is acknowledged, so that a slow reader holds the host back.
        await self._link.send(OKAY, *self._ids)
        return data

    async def write(self, data: bytes) -> None:
        async with self._writing:
            for begin in range(0, len(data), _MAX_DATA):
                if self.closed.is_set():
                    raise Gone
                self._taken.clear()
                await self._link.send(WRTE, *self._ids, data[begin : begin + _MAX_DATA])
                await self._taken.wait()


class Link:
    """One connection of an adb server."""

    def __init__(self, daemon: Daemon, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._daemon = daemon
        self._reader = reader
        self._writer = writer
        self._streams: dict[int, Stream] = {}
        self._last_id = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        try:
            while True:
                header = await self._reader.readexactly(_HEADER.size)
                command, arg0, arg1, length, _, magic = _HEADER.unpack(header)
                if magic != command ^ 0xFFFFFFFF or length > _MAX_DATA:
                    return
                data = await self._read(length, arg1)
                await self._handle(command, arg0, arg1, data)
        except (asyncio.IncompleteReadError, ConnectionError, Gone):
            pass
        finally:
            await self.cut()

    async def _read(self, length: int, local_id: int) -> bytes:
        faults = self._daemon.faults
        if faults.drop_after_received is None:
            return await self._reader.readexactly(length)
        # The bytes before the cut do arrive: so does a real cable.
        part = await self._reader.readexactly(min(length, faults.drop_after_received))
        faults.drop_after_received -= len(part)
        if faults.drop_after_received > 0:
            return part
        faults.drop_after_received = None
        if local_id in self._streams:
            self._streams[local_id].feed(part)
            await asyncio.sleep(0.05)
        await self._daemon.pull_cable()
        raise Gone

    async def send(self, command: int, arg0: int, arg1: int, data: bytes = b"") -> None:
        faults = self._daemon.faults
        if faults.delay_s:
            await asyncio.sleep(faults.delay_s)
        if faults.drop_after_sent is not None:
            faults.drop_after_sent -= len(data)
            if faults.drop_after_sent <= 0:
                faults.drop_after_sent = None
                await self._daemon.pull_cable()
                raise Gone
        if self._writer.is_closing():
            raise Gone
        self._writer.write(_HEADER.pack(command, arg0, arg1, len(data), 0, command ^ 0xFFFFFFFF) + data)
        with contextlib.suppress(ConnectionError):
            await self._writer.drain()

    async def cut(self) -> None:
        self._writer.close()
        for stream in self._streams.values():
            stream.close()
        self._streams.clear()

    async def _handle(self, command: int, arg0: int, arg1: int, data: bytes) -> None:
        if command == CNXN:
            await self._greet()
        elif command == AUTH and arg0 == _SIGNATURE and self._daemon.faults.state == "unauthorized":
            await self.send(
                AUTH, _TOKEN, 0, os.urandom(20)
            )  # this key will not do; when offered a new one, ask the user
        elif command == OPEN:
            self._open(arg0, data)
        elif arg1 in self._streams:
            stream = self._streams[arg1]
            if command == WRTE:
                stream.feed(data)
            elif command == OKAY:
                stream.acknowledge()
            elif command == CLSE:
                self._streams.pop(arg1).close()

    async def _greet(self) -> None:
        state = self._daemon.faults.state
        if state == "offline":
            return
        if state == "unauthorized":
            await self.send(AUTH, _TOKEN, 0, os.urandom(20))
            return
        model = self._daemon.model
        banner = f"device::ro.product.name={model};ro.product.model={model};ro.product.device={model};"
        await self.send(CNXN, _VERSION, _MAX_DATA, f"{banner}features={_FEATURES}".encode())

    def _open(self, remote_id: int, data: bytes) -> None:
        self._last_id += 1
        local_id = self._last_id
        service = data.rstrip(b"\0").decode("utf-8", "surrogateescape")
        stream = self._streams[local_id] = Stream(self, local_id, remote_id)
        task = asyncio.get_running_loop().create_task(self._run_service(service, stream, local_id, remote_id))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run_service(self, service: str, stream: Stream, local_id: int, remote_id: int) -> None:
        run = self._daemon.service(service)
        with contextlib.suppress(Gone, ConnectionError):
            if run is not None:
                await self.send(OKAY, local_id, remote_id)
                await run(stream)
            # Our number is 0 where the service could not be opened.
            await self.send(CLSE, local_id if run is not None else 0, remote_id)
        self._streams.pop(local_id, None)


class Daemon:
    """A device on the wire, served from a thread of its own until it is stopped.

    Args:
        root: The folder that `sync` sees as "/".
        shell: The argument list before each command line, such as ``["/bin/sh", "-c"]``.
        model: The product it says it is.
    """

    def __init__(self, root: Path, *, shell: list[str] | None = None, model: str = "stand_in") -> None:
        self.root = root
        self.shell = shell or ["/bin/sh", "-c"]
        self.model = model
        self.faults = Faults()
        self.port = 0
        self.children: set[int] = set()
        self._links: set[Link] = set()
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def start(self) -> None:
        self._thread.start()
        self.plug_in()

    def stop(self) -> None:
        self.plug_out()
        self._kill_children()
        self._call(self._cancel_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def plug_in(self) -> None:
        """Listens (again); the first time on any port, then always on the same."""
        self._call(self._listen())

    def plug_out(self) -> None:
        """The cable is pulled: every connection breaks, and nobody answers a new one."""
        self._call(self.pull_cable())

    def reboot(self) -> None:
        """Nothing that ran runs any more, and the device is away; `plug_in` is the end of its start."""
        self.plug_out()
        self._kill_children()

    def service(self, name: str) -> Callable[[Stream], Awaitable[None]] | None:
        kind, _, argument = name.partition(":")
        if kind.split(",")[0] in ("shell", "exec"):
            return lambda stream: adbd_shell.serve(self, stream, kind.split(","), argument)
        if kind == "sync":
            return lambda stream: adbd_sync.serve(self, stream)
        return None

    async def pull_cable(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for link in list(self._links):
            await link.cut()

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = Link(self, reader, writer)
        self._links.add(link)
        try:
            await link.serve()
        finally:
            self._links.discard(link)

    async def _cancel_all(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _kill_children(self) -> None:
        for pid in list(self.children):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)
