"""A program that runs on a device, as the transports see it; and the time that a call may take."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass

from melt_core.errors import CancelledError, TransientDeviceError
from melt_core.transports.base import Cancel, StreamName

#: How long a wait sleeps before it looks again whether it was cancelled.
SLICE_S = 0.1


@dataclass(frozen=True)
class Output:
    """A piece of what a program wrote."""

    stream: StreamName
    data: bytes


class RemoteProcess(ABC):
    """A program on the device with its three streams. One thread uses it.

    Neither ``poll`` nor ``offer`` waits longer than told, so that the caller keeps its deadline.

    Attributes:
        exit_code: None while it runs; set by ``poll`` once all output was handed out.
    """

    exit_code: int | None = None

    @abstractmethod
    def poll(self, wait_s: float) -> Output | None:
        """Returns the next piece of output, or None when none came in time or the program has ended.

        Raises:
            TransientDeviceError: The connection is gone, and with it what the program would have said.
        """

    @abstractmethod
    def offer(self, data: memoryview, wait_s: float) -> int:
        """Returns how many bytes of ``data`` its standard input took in time; 0 when it is full or has ended.

        Raises:
            TransientDeviceError: The connection is gone.
        """

    @abstractmethod
    def close_stdin(self) -> None:
        """Lets the program read the end of its input."""

    @abstractmethod
    def end(self) -> None:
        """Ends the program if it still runs, and lets go of the connection. Calling it twice is harmless."""


class Deadline:
    """The time that one call has, and its cancel.

    Args:
        timeout_s: For the whole call.
        what: What takes the time, for the message, such as ``"run uname"``.
        cancel: Stops the call when set.
        stall_s: How long nothing may move; ``moved()`` says that something did.
    """

    def __init__(self, timeout_s: float, *, what: str, cancel: Cancel | None, stall_s: float | None = None) -> None:
        self._start = time.monotonic()
        self._last_move = self._start
        self._timeout_s = timeout_s
        self._stall_s = stall_s
        self._what = what
        self.cancel = cancel

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start, host steady clock."""
        return time.monotonic() - self._start

    def left_s(self) -> float:
        """Returns the seconds that are left; not below a tenth, so that what follows fails with its own message."""
        return max(self._start + self._timeout_s - time.monotonic(), 0.1)

    def moved(self) -> None:
        """Notes that something moved, so the stall time begins anew."""
        self._last_move = time.monotonic()

    def wait(self, seconds: float) -> None:
        """Waits, or until the time is up. Raises: as `slice_s`."""
        end = time.monotonic() + seconds
        while (left_s := end - time.monotonic()) > 0:
            time.sleep(min(self.slice_s(), left_s))

    def slice_s(self) -> float:
        """Returns how long to wait now before asking again.

        Raises:
            CancelledError: The call was cancelled.
            TransientDeviceError: Its time is up, or nothing moved for too long.
        """
        if self.cancel is not None and self.cancel.is_set():
            raise CancelledError(f"cancelled: {self._what}")
        now = time.monotonic()
        left_s = self._start + self._timeout_s - now
        if left_s <= 0:
            raise TransientDeviceError(
                f"timed out after {self._timeout_s:g} s: {self._what}; allow more time, or check whether the device is "
                "overloaded"
            )
        if self._stall_s is not None and now - self._last_move > self._stall_s:
            raise TransientDeviceError(
                f"nothing moved for {self._stall_s:g} s: {self._what}; check the cable or the network, then try again"
            )
        return min(SLICE_S, left_s)
