"""A program at the other end of an ssh connection, between the event loop's thread and the caller's.

An ssh server leaves a program running when its channel closes. So each program says its process id first, on a line
that begins with a mark made for it alone (which also passes over what a login shell may print), and is ended by a
second command that names this id.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
import threading
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from melt_core.errors import DeviceError, TransientDeviceError
from melt_core.transports.process import Output, RemoteProcess
from melt_core.transports.quoting import check_argv, shell_line

if TYPE_CHECKING:
    import asyncssh

_SAY_ID = 'echo "$0$$"; exec "$@"'
# The group first: ssh servers make each command the leader of one, so its children end with it.
_END = """kill -s HUP -- "-$1" 2>/dev/null || kill -s HUP "$1" 2>/dev/null || exit 0
for i in 1 2 3 4 5; do kill -s 0 "$1" 2>/dev/null || exit 0; sleep 0.1 2>/dev/null || sleep 1; done
kill -s KILL -- "-$1" 2>/dev/null || kill -s KILL "$1" 2>/dev/null"""
_END_TIMEOUT_S = 3.0
_MAX_GREETING_BYTES = 64 << 10
_MAX_BUFFERED_BYTES = 1 << 20
_PART_BYTES = 1 << 17
_STDERR = 1  # RFC 4254, section 5.2: SSH_EXTENDED_DATA_STDERR


def started(argv: Sequence[str]) -> tuple[str, bytes]:
    """Returns the line that starts a program and says its id, and the mark before that id."""
    mark = f"melt-{secrets.token_hex(16)}-"
    return shell_line(["sh", "-c", _SAY_ID, mark, *check_argv(argv)]), mark.encode()


class SshSession:
    """What asyncssh calls, in its loop's thread, about one program; the caller's thread waits on ``changed``.

    Args:
        mark: What stands before the process id in the program's output.
        uri: The device, for messages.
    """

    def __init__(self, mark: bytes, *, uri: str) -> None:
        self.uri = uri
        self.changed = threading.Condition()
        self.outputs: deque[Output] = deque()
        self.channel: asyncssh.SSHClientChannel[bytes] | None = None
        self.pid: int | None = None
        self.exit_code: int | None = None
        self.closed = False
        self.failure: DeviceError | None = None
        self.can_write = True
        self._mark = mark
        self._greeting = bytearray()
        self._buffered = 0
        self._paused = False

    def connection_made(self, channel: asyncssh.SSHClientChannel[bytes]) -> None:
        """The channel is open."""
        self.channel = channel

    def session_started(self) -> None:
        """The program was started."""

    def data_received(self, data: bytes, datatype: int | None) -> None:
        """The program wrote something."""
        with self.changed:
            if datatype != _STDERR and self.pid is None:
                data = self._after_greeting(data)
            if data:
                self.outputs.append(Output("stderr" if datatype == _STDERR else "stdout", data))
                self._buffered += len(data)
            if self._buffered > _MAX_BUFFERED_BYTES and not self._paused and self.channel is not None:
                self._paused = True
                self.channel.pause_reading()
            self.changed.notify_all()

    def eof_received(self) -> bool:
        """The program closed its output; its exit code is still to come."""
        return True

    def exit_status_received(self, status: int) -> None:
        """The program ended by itself."""
        self.exit_code = status

    def exit_signal_received(self, name: str, core_dumped: bool, message: str, language: str) -> None:
        """The program was ended by a signal."""
        number = getattr(signal, f"SIG{name}", None)
        self.exit_code = 128 + (int(number) if isinstance(number, signal.Signals) else 0)

    def connection_lost(self, error: Exception | None) -> None:
        """The channel is closed, after everything else."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()

    def pause_writing(self) -> None:
        """The device takes no more input for now."""
        with self.changed:
            self.can_write = False

    def resume_writing(self) -> None:
        """The device takes input again."""
        with self.changed:
            self.can_write = True
            self.changed.notify_all()

    def take(self) -> Output | None:
        """Returns the oldest output, or None; called with ``changed`` held, in the caller's thread."""
        if not self.outputs:
            return None
        output = self.outputs.popleft()
        self._buffered -= len(output.data)
        return output

    def resume_reading(self) -> None:
        """Lets the device send again, if the caller has caught up; called in the loop's thread."""
        with self.changed:
            if self._paused and self._buffered <= _MAX_BUFFERED_BYTES // 2 and self.channel is not None:
                self._paused = False
                self.channel.resume_reading()

    @property
    def paused(self) -> bool:
        """Whether the device was told to wait."""
        return self._paused

    def _after_greeting(self, data: bytes) -> bytes:
        """Returns the output after the line with the process id, and keeps that id."""
        self._greeting += data
        begin = self._greeting.find(self._mark)
        end = self._greeting.find(b"\n", begin) if begin >= 0 else -1
        if end < 0:
            if len(self._greeting) > _MAX_GREETING_BYTES:
                self.failure = DeviceError(
                    f"the login shell of {self.uri} prints without an end before a command runs: check its start files"
                )
                self._greeting.clear()
            return b""
        text = bytes(self._greeting[begin + len(self._mark) : end])
        if not (text.isdigit() and 0 < len(text) < 10 and int(text) > 1):
            self.failure = DeviceError(f"{self.uri} answered {text[:40]!r} where a process id was expected")
            return b""
        self.pid = int(text)
        rest = bytes(self._greeting[end + 1 :])
        self._greeting.clear()
        return rest


class SshProcess(RemoteProcess):
    """The caller's side of a program started over ssh.

    Args:
        session: What the loop's thread tells.
        connection: The connection, for the command that ends the program.
        loop: The loop that runs both.
    """

    def __init__(
        self, session: SshSession, connection: asyncssh.SSHClientConnection, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._session = session
        self._connection = connection
        self._loop = loop
        self._writing = False  # a part was handed to the loop and is not yet with asyncssh
        self._stdin_open = True

    def poll(self, wait_s: float) -> Output | None:
        """Returns the next piece of output; see the base class."""
        session = self._session
        with session.changed:
            session.changed.wait_for(lambda: session.outputs or session.closed or session.failure, wait_s)
            if session.failure is not None:
                raise session.failure
            output = session.take()
            if output is None and session.closed:
                if session.exit_code is None:
                    raise TransientDeviceError(
                        f"the connection to {session.uri} broke; check the network, and whether the device restarted"
                    )
                self.exit_code = session.exit_code
            resume = session.paused
        if resume:
            self._in_loop(session.resume_reading)
        return output

    def offer(self, data: memoryview, wait_s: float) -> int:
        """Hands input over; see the base class."""
        session = self._session

        def free() -> bool:
            return session.can_write and not self._writing

        with session.changed:
            if not self._stdin_open or session.closed:
                return 0
            session.changed.wait_for(lambda: free() or session.outputs or session.closed, wait_s)
            if session.closed or not free():
                return 0
            self._writing = True
        part = bytes(data[:_PART_BYTES])
        self._in_loop(self._write, part)
        return len(part)

    def close_stdin(self) -> None:
        """Ends the program's input; see the base class."""
        if self._stdin_open:
            self._stdin_open = False
            self._in_loop(self._write_eof)

    def end(self) -> None:
        """Ends the program if it still runs; see the base class."""
        self._stdin_open = False
        session = self._session
        with session.changed:
            ended = session.closed
        if not ended:
            with contextlib.suppress(Exception):  # the connection may be gone; then so is the way to the program
                asyncio.run_coroutine_threadsafe(self._end_now(), self._loop).result(_END_TIMEOUT_S + 1.0)

    async def _end_now(self) -> None:
        session = self._session
        try:
            if session.exit_code is None and session.pid is not None and not self._connection.is_closed():
                line = shell_line(["sh", "-c", _END, "melt", str(session.pid)])
                await asyncio.wait_for(self._connection.run(line, check=False), _END_TIMEOUT_S)
        finally:
            if session.channel is not None:
                session.channel.abort()

    def _in_loop(self, call: Any, *arguments: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was stopped: the transport is closed
            self._loop.call_soon_threadsafe(call, *arguments)

    def _write(self, part: bytes) -> None:
        channel = self._session.channel
        with contextlib.suppress(OSError):  # the channel closed meanwhile: poll() says so
            if channel is not None:
                channel.write(part)
        with self._session.changed:
            self._writing = False
            self._session.changed.notify_all()

    def _write_eof(self) -> None:
        channel = self._session.channel
        with contextlib.suppress(OSError):
            if channel is not None:
                channel.write_eof()
