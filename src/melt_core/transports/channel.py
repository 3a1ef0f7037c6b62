"""The line-wise channel over a program's standard streams."""

from __future__ import annotations

import contextlib

from melt_core.errors import DeviceError, InvalidArgumentError, MeltError, TransientDeviceError
from melt_core.transports.base import DEFAULT_RUN_TIMEOUT_S, MAX_LINE_BYTES, Cancel, LineChannel
from melt_core.transports.process import Deadline, RemoteProcess

_KEPT_STDERR_BYTES = 16 << 10
_END_WAIT_S = 1.0  # for a program that ends by itself when its input closes


class ProcessChannel(LineChannel):
    """Lines in and out of a program on the device.

    Args:
        process: The program, just started; the channel ends it.
        name: What it is called in messages.
    """

    def __init__(self, process: RemoteProcess, *, name: str) -> None:
        self._process: RemoteProcess | None = process
        self._name = name
        self._buffer = bytearray()
        self._stderr = bytearray()

    def send(self, line: bytes, *, timeout_s: float = DEFAULT_RUN_TIMEOUT_S, cancel: Cancel | None = None) -> None:
        """Sends one line; see the interface."""
        if b"\n" in line or len(line) >= MAX_LINE_BYTES:
            raise InvalidArgumentError(f"a line has no newline in it and fewer than {MAX_LINE_BYTES} bytes")
        process = self._running()
        deadline = Deadline(timeout_s, what=f"send a line to {self._name}", cancel=cancel)
        rest = memoryview(line + b"\n")
        while rest:
            wait_s = deadline.slice_s()
            taken = process.offer(rest, wait_s)
            rest = rest[taken:]
            if taken == 0:
                self._take(process, 0.0)
                if process.exit_code is not None:
                    raise self._ended(process.exit_code)

    def receive(self, *, timeout_s: float = DEFAULT_RUN_TIMEOUT_S, cancel: Cancel | None = None) -> bytes:
        """Returns the next line; see the interface."""
        deadline = Deadline(timeout_s, what=f"wait for a line of {self._name}", cancel=cancel)
        searched = 0
        while True:
            end = self._buffer.find(b"\n", searched)
            if end >= 0:
                line = bytes(self._buffer[:end])
                del self._buffer[: end + 1]
                return line
            searched = len(self._buffer)
            if searched >= MAX_LINE_BYTES:
                self.close()
                self._buffer.clear()
                raise DeviceError(
                    f"{self._name} sent a line of more than {MAX_LINE_BYTES} bytes: it does not speak the agent "
                    "protocol; check which program the device runs"
                )
            process = self._running()
            self._take(process, deadline.slice_s())
            if process.exit_code is not None and b"\n" not in self._buffer[searched:]:
                raise self._ended(process.exit_code)

    @property
    def errors(self) -> str:
        """The last of what the program wrote to standard error, as text."""
        return self._stderr.decode("utf-8", "replace")

    def close(self) -> None:
        """Closes the program's input, waits shortly for its end, and ends it."""
        process, self._process = self._process, None
        if process is None:
            return
        try:
            with contextlib.suppress(MeltError):
                process.close_stdin()
                deadline = Deadline(_END_WAIT_S, what=f"end {self._name}", cancel=None)
                while process.exit_code is None:  # what it still says is of no interest; the deadline ends the wait
                    process.poll(deadline.slice_s())
        finally:
            process.end()

    def _running(self) -> RemoteProcess:
        if self._process is None:
            raise TransientDeviceError(f"the channel to {self._name} is closed: open a new one")
        return self._process

    def _take(self, process: RemoteProcess, wait_s: float) -> None:
        output = process.poll(wait_s)
        if output is None:
            return
        if output.stream == "stdout":
            self._buffer += output.data
        else:
            self._stderr += output.data
            del self._stderr[:-_KEPT_STDERR_BYTES]

    def _ended(self, exit_code: int) -> DeviceError:
        lines = self.errors.strip().splitlines()
        said = f": {lines[-1][:500]}" if lines else ""
        if exit_code in (126, 127):
            return DeviceError(
                f"the device cannot run {self._name} (exit code {exit_code}){said}; check that it is there and built "
                "for this device's architecture"
            )
        return TransientDeviceError(f"{self._name} ended with exit code {exit_code}{said}; start it again")
