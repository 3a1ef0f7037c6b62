"""Transport `adb`: an Android device, over USB or the network, through the adb server.

adbutils brings the adb program and finds or starts its server. Every command runs in the device's shell service of
version 2, which keeps exit code, output and errors apart. When this side goes away, adbd sends the program SIGHUP.
"""

from __future__ import annotations

import contextlib
import select
import socket
from collections import deque
from collections.abc import Sequence

from melt_core.errors import MeltError, TransientDeviceError
from melt_core.transports import adb_wire
from melt_core.transports.adb_wire import AdbServer
from melt_core.transports.process import Output, RemoteProcess
from melt_core.transports.quoting import shell_line
from melt_core.transports.shell import ShellTransport

#: Writable and executable for the shell user, on every Android.
DEFAULT_WORK_DIR = "/data/local/tmp/melt"
_READ_BYTES = 1 << 18
_PACKET_BYTES = 1 << 17


class AdbTransport(ShellTransport):
    """An Android device that an adb server reaches.

    Args:
        serial: As `adb devices` lists it.
        work_dir: An absolute path on the device.
        server: The adb server; by default the one that adb's own tools use.
        connect_timeout_s: How long the server may take to answer each step of starting a program.
    """

    def __init__(
        self,
        serial: str,
        *,
        work_dir: str = DEFAULT_WORK_DIR,
        server: AdbServer | None = None,
        connect_timeout_s: float = 15.0,
    ) -> None:
        super().__init__(f"adb:{adb_wire.check_serial(serial)}")
        self._serial = serial
        self._wanted_work_dir = work_dir
        self._server = server or AdbServer.of_environment()
        self._connect_timeout_s = connect_timeout_s

    def spawn(self, argv: Sequence[str]) -> RemoteProcess:
        """Starts a program on the device."""
        connection = adb_wire.open_shell(self._server, self._serial, shell_line(argv), self._connect_timeout_s)
        return _AdbProcess(connection, self)

    def _find_work_dir(self) -> str:
        return self._made_work_dir(self._wanted_work_dir)

    def lost(self) -> TransientDeviceError:
        """Words a connection that broke, with what adb now says of the device."""
        state = "it is not listed any more"
        try:
            answer = self._server.connect(2.0, start=False)
        except MeltError:
            return TransientDeviceError(
                f"the connection to {self.uri} broke: the adb server at {self._server.host}:{self._server.port} has "
                "ended; the next call starts it again"
            )
        answer.close()
        with contextlib.suppress(MeltError):
            listed = adb_wire.list_adb_devices(self._server, timeout_s=2.0)
            state = next((f"adb lists it as {d.state!r}" for d in listed if d.serial == self._serial), state)
        return TransientDeviceError(
            f"the connection to {self.uri} broke: {state}; check the cable, or whether the device restarted"
        )


class _AdbProcess(RemoteProcess):
    def __init__(self, connection: socket.socket, transport: AdbTransport) -> None:
        connection.setblocking(False)
        self._connection = connection
        self._transport = transport
        self._reader = adb_wire.PacketReader()
        self._ready: deque[Output] = deque()
        self._pending = b""  # a packet of which a part is on its way already
        self._exit_seen: int | None = None
        self._stdin_open = True

    def poll(self, wait_s: float) -> Output | None:
        if not self._ready and self._exit_seen is None:
            self._exchange(wait_s)
        if self._ready:
            return self._ready.popleft()
        self.exit_code = self._exit_seen
        return None

    def offer(self, data: memoryview, wait_s: float) -> int:
        if not self._stdin_open or self._exit_seen is not None:
            return 0
        if self._pending and not self._ready:
            self._exchange(wait_s)
        if self._pending or self._exit_seen is not None:
            return 0
        part = bytes(data[:_PACKET_BYTES])
        self._pending = adb_wire.PACKET.pack(adb_wire.STDIN, len(part)) + part
        self._flush()
        return len(part)

    def close_stdin(self) -> None:
        if self._stdin_open:
            self._stdin_open = False
            self._pending += adb_wire.PACKET.pack(adb_wire.CLOSE_STDIN, 0)
            self._flush()

    def end(self) -> None:
        self._stdin_open = False
        adb_wire.close_quietly(self._connection)

    def _exchange(self, wait_s: float) -> None:
        """Reads what has come and sends what waits, once."""
        writers = [self._connection] if self._pending else []
        readable, writable, _ = select.select([self._connection], writers, [], wait_s)
        if writable:
            self._flush()
        if readable:
            self._receive()

    def _receive(self) -> None:
        try:
            data = self._connection.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            raise self._transport.lost()
        for kind, part in self._reader.feed(data):
            if kind == adb_wire.EXIT:
                self._exit_seen = part[0]
                return  # nothing comes after it
            if kind in (adb_wire.STDOUT, adb_wire.STDERR):
                self._ready.append(Output("stdout" if kind == adb_wire.STDOUT else "stderr", part))

    def _flush(self) -> None:
        while self._pending:
            try:
                sent = self._connection.send(self._pending)
            except BlockingIOError:
                return
            except OSError:
                # The program may have ended: what it said before that is still to be read.
                self._pending = b""
                self._stdin_open = False
                return
            self._pending = self._pending[sent:]
