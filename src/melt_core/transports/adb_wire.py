"""What this package says to an adb server: which devices there are, and a shell of one of them.

    host:devices, host:devices-l      4 hex digits of length, then a line per device
    host:transport:SERIAL             OKAY or FAIL; from there on the connection belongs to the device
    shell,v2,raw:LINE                 OKAY; then packets, both ways: 1 byte kind, 4 bytes length (little endian), data

kind: 0 standard input, 1 output, 2 error, 3 exit code (1 byte), 4 end of input. Version 2 of the shell service came
with Android 7; version 1 has neither an exit code nor a standard error of its own, and is never used here.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import struct
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from melt_core.errors import DeviceError, InvalidArgumentError, MissingExtraError, TransientDeviceError

if TYPE_CHECKING:
    from adbutils import AdbClient

DEFAULT_PORT = 5037
_START_TIMEOUT_S = 20.0
_MAX_SERIAL_CHARS = 256
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_MAX_SERVICE_BYTES = 0xFFFF  # the length has four hex digits


@dataclass(frozen=True)
class AdbServer:
    """Where the adb server listens; it is started there when it does not run and the host is this one.

    Args:
        host: By default ``ANDROID_ADB_SERVER_HOST`` or this host.
        port: By default ``ANDROID_ADB_SERVER_PORT`` or 5037.
    """

    host: str
    port: int

    @classmethod
    def of_environment(cls, *, host: str | None = None, port: int | None = None) -> AdbServer:
        """Returns the server that adb's own tools would use, where nothing else is given."""
        text = os.environ.get("ANDROID_ADB_SERVER_PORT", str(DEFAULT_PORT))
        if port is None and not text.isdecimal():
            raise InvalidArgumentError(f"ANDROID_ADB_SERVER_PORT is {text!r}: set it to a port number or not at all")
        return cls(host or os.environ.get("ANDROID_ADB_SERVER_HOST") or "127.0.0.1", port or int(text))

    def connect(self, timeout_s: float, *, start: bool = True) -> socket.socket:
        """Returns a connection to the server.

        Raises:
            TransientDeviceError: It does not answer, and could not be started.
        """
        client = _client(self)
        if not self._listens(timeout_s):
            if not start or self.host not in _LOOPBACK:
                raise TransientDeviceError(
                    f"no adb server answers at {self.host}:{self.port}: start it there with `adb start-server`"
                )
            self._start()
        try:
            connection: socket.socket = client.make_connection(timeout=timeout_s).conn
        except Exception as error:  # adbutils has several kinds, without a common base
            raise TransientDeviceError(f"the adb server at {self.host}:{self.port} does not answer: {error}") from error
        return connection

    def ask(self, service: str, timeout_s: float) -> str:
        """Returns the server's answer to one question, such as ``host:devices-l``."""
        with self.connect(timeout_s) as connection:
            connection.settimeout(timeout_s)
            request(connection, service)
            return _read_block(connection)

    def _listens(self, timeout_s: float) -> bool:
        try:
            socket.create_connection((self.host, self.port), timeout=min(timeout_s, 3.0)).close()
        except OSError:
            return False
        return True

    def _start(self) -> None:
        import adbutils

        # Started here, not by adbutils: that would start it on the default port, whichever port is asked for.
        command = [adbutils.adb_path(), "-P", str(self.port), "start-server"]
        try:
            done = subprocess.run(command, capture_output=True, timeout=_START_TIMEOUT_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise TransientDeviceError(f"cannot start the adb server ({' '.join(command)}): {error}") from error
        if done.returncode != 0:
            said = done.stderr.decode("utf-8", "replace").strip().splitlines()
            raise TransientDeviceError(
                f"cannot start the adb server on port {self.port}: {said[-1] if said else done.returncode}"
            )


@dataclass(frozen=True)
class AdbDevice:
    """A device that an adb server knows.

    ``state`` is adb's word: ``device`` (ready), ``offline``, ``unauthorized``, ``recovery``, ...
    """

    serial: str
    state: str
    model: str | None
    product: str | None


def list_adb_devices(server: AdbServer | None = None, *, timeout_s: float = 10.0) -> tuple[AdbDevice, ...]:
    """Returns the devices that an adb server knows, ready or not.

    Raises:
        TransientDeviceError: No adb server answers.
        MissingExtraError: adbutils is not installed.
    """
    asked = server or AdbServer.of_environment()
    # The short form is a table; the long one pads with blanks, which a serial may hold itself.
    listed = [line.split("\t") for line in asked.ask("host:devices", timeout_s).splitlines()]
    details = asked.ask("host:devices-l", timeout_s).splitlines() if listed else []
    return tuple(_device_of(fields[0], fields[1], details) for fields in listed if len(fields) == 2)


def open_shell(server: AdbServer, serial: str, line: str, timeout_s: float) -> socket.socket:
    """Starts a command line on a device and returns the connection that carries its packets.

    Args:
        server: The adb server.
        serial: The device.
        line: From ``quoting.shell_line``, and from nowhere else.
        timeout_s: For each answer of the server.
    """
    service = f"shell,v2,raw:{line}"
    if len(service.encode("utf-8", "surrogateescape")) > _MAX_SERVICE_BYTES:
        raise InvalidArgumentError("the command is longer than the 65535 bytes adb takes: push a file and name that")
    connection = server.connect(timeout_s)
    try:
        connection.settimeout(timeout_s)
        request(connection, f"host:transport:{serial}")
        request(connection, service)
    except BaseException:
        connection.close()
        raise
    return connection


def request(connection: socket.socket, service: str) -> None:
    """Sends one request and reads OKAY.

    Raises:
        DeviceError: The server says FAIL; transient where its words are those of a device that may come back.
    """
    data = service.encode("utf-8", "surrogateescape")
    try:
        connection.sendall(b"%04x" % len(data) + data)
        status = _read_exactly(connection, 4)
        if status == b"OKAY":
            return
        message = _read_block(connection) if status == b"FAIL" else f"it answers {status!r}: is that an adb server?"
    except OSError as error:
        raise TransientDeviceError(f"the adb server does not answer: {error}; is it still running?") from error
    raise refusal(message)


def refusal(message: str) -> DeviceError:
    """Words what an adb server says when it refuses."""
    said = message.strip().splitlines()[0] if message.strip() else "no reason given"
    if "unauthorized" in said:
        return DeviceError(f"adb says {said!r}: unlock the device and allow USB debugging from this computer")
    if "not found" in said or "no devices" in said:
        return TransientDeviceError(f"adb says {said!r}: check the cable and USB debugging, and see `adb devices`")
    if "offline" in said or "connecting" in said or "authorizing" in said or said == "closed":
        return TransientDeviceError(f"adb says {said!r}: the device may be starting; unplug and plug it in if it stays")
    return DeviceError(f"adb refuses: {said}; Android 7 or newer is needed")


def check_serial(serial: str) -> str:
    """Returns the serial if it can be one.

    Raises:
        InvalidArgumentError: It is empty, long, or holds what no serial does, such as control characters.
    """
    if not 0 < len(serial) <= _MAX_SERIAL_CHARS or not serial.isprintable() or serial != serial.strip():
        raise InvalidArgumentError(f"{serial[:80]!r} is no serial of a device: `adb devices` lists them")
    return serial


def _client(server: AdbServer) -> AdbClient:
    try:
        import adbutils
    except ImportError as error:
        raise MissingExtraError("adbutils", extra="adb") from error
    return adbutils.AdbClient(host=server.host, port=server.port)


def _device_of(serial: str, state: str, details: list[str]) -> AdbDevice:
    # "SERIAL   STATE usb:1-1 product:x model:y device:z transport_id:1"
    line = next((line for line in details if line.startswith(f"{serial} ")), "")
    fields = dict(re.findall(r"\b(product|model):(\S+)", line[len(serial) :]))
    return AdbDevice(serial, state, fields.get("model"), fields.get("product"))


def _read_block(connection: socket.socket) -> str:
    try:
        length = int(_read_exactly(connection, 4), 16)
        return _read_exactly(connection, length).decode("utf-8", "replace")
    except ValueError as error:
        raise TransientDeviceError(f"the adb server's answer cannot be read: {error}") from error
    except OSError as error:
        raise TransientDeviceError(f"the adb server does not answer: {error}; is it still running?") from error


def _read_exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = connection.recv(count - len(data))
        if not part:
            raise ConnectionError("it closed the connection")
        data += part
    return data


PACKET = struct.Struct("<BI")
STDIN, STDOUT, STDERR, EXIT, CLOSE_STDIN = range(5)


class PacketReader:
    """Takes the shell protocol apart, in pieces of what has come: no length that a device names is ever reserved."""

    def __init__(self) -> None:
        self._header = bytearray()
        self._kind = 0
        self._left = 0

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Returns the (kind, data) pieces in what has arrived; a long packet gives several."""
        pieces: list[tuple[int, bytes]] = []
        view = memoryview(data)
        while view:
            if self._left == 0:
                missing = PACKET.size - len(self._header)
                self._header += view[:missing]
                view = view[missing:]
                if len(self._header) == PACKET.size:
                    self._kind, self._left = PACKET.unpack(self._header)
                    self._header.clear()
                continue
            part = bytes(view[: self._left])
            view = view[len(part) :]
            self._left -= len(part)
            pieces.append((self._kind, part))
        return pieces


def close_quietly(connection: socket.socket) -> None:
    """Closes a connection that may be broken."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
