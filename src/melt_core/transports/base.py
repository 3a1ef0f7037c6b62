"""The interface of a transport: how bytes and commands reach a device.

    device -> transport -> agent

Every transport does the same six things: ``push``, ``pull``, ``run``, ``open_channel``, ``list`` and ``remove``. Each
call is bounded in time and in what it accepts, can be cancelled from another thread, and either does what it says or
raises; none of them tries again by itself. That is for ``devices/``, which repeats what failed with
``TransientDeviceError``.

Example:
    >>> from melt_core.transports import LocalTransport, RemotePath
    >>> with LocalTransport() as transport:                                   # doctest: +SKIP
    ...     transport.push(Path("tiny.gguf"), RemotePath.of("models/tiny.gguf"))
    ...     transport.run(["uname", "-m"]).stdout
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, TypeAlias

from melt_core.transports.paths import RemotePath

#: A call stops soon after this is set, and raises ``CancelledError``.
Cancel: TypeAlias = threading.Event
StreamName: TypeAlias = Literal["stdout", "stderr"]
#: Called with the stream and each piece of output, as it comes; from the thread that called ``run``.
OnOutput: TypeAlias = Callable[[StreamName, bytes], None]
#: Called with bytes done and bytes in all, about once per megabyte and at the end.
OnProgress: TypeAlias = Callable[[int, int], None]

DEFAULT_RUN_TIMEOUT_S = 60.0
DEFAULT_TRANSFER_TIMEOUT_S = 3600.0
DEFAULT_STALL_S = 30.0
DEFAULT_MAX_OUTPUT_BYTES = 16 << 20
DEFAULT_MAX_PULL_BYTES = 4 << 30
MAX_LINE_BYTES = 1 << 20  # the agent protocol's own bound


@dataclass(frozen=True)
class RunResult:
    """What a command did: its exit code and all it wrote, which is at most what the caller allowed.

    A program that a signal ended has the exit code that shells give it, 128 plus the signal's number.
    """

    exit_code: int
    stdout: bytes
    stderr: bytes
    duration_s: float  # host steady clock, the way to the device included

    @property
    def text(self) -> str:
        """Standard output as text; bytes that are not UTF-8 show as U+FFFD."""
        return self.stdout.decode("utf-8", "replace")


@dataclass(frozen=True)
class Transfer:
    """What a push or a pull did. The hash was computed on both sides and is the same."""

    path: RemotePath
    size_bytes: int
    sha256: str
    moved_bytes: int  # over the wire in this call; 0 where the same file was there already
    resumed_from_bytes: int  # what an earlier, interrupted transfer had left


@dataclass(frozen=True)
class RemoteFile:
    """An entry of a listing."""

    path: RemotePath
    kind: Literal["file", "folder", "link", "other"]
    size_bytes: int
    modified_s: int  # the device's wall clock, seconds since 1970


class LineChannel(ABC):
    """A program on the device that is talked to line by line, such as the agent.

    One thread at a time uses it. Leaving the ``with`` block closes its input, waits shortly for its end and then ends
    it. Both directions are bounded: a line has at most ``MAX_LINE_BYTES``.
    """

    @abstractmethod
    def send(self, line: bytes, *, timeout_s: float = DEFAULT_RUN_TIMEOUT_S, cancel: Cancel | None = None) -> None:
        """Sends one line; the newline is added.

        Raises:
            InvalidArgumentError: The line holds a newline or is too long.
            TransientDeviceError: The connection is gone, the program ended, or it did not read in time; open a new
                channel.
        """

    @abstractmethod
    def receive(self, *, timeout_s: float = DEFAULT_RUN_TIMEOUT_S, cancel: Cancel | None = None) -> bytes:
        """Returns the next line, without its newline.

        Raises:
            TransientDeviceError: Nothing came in time, the connection is gone, or the program ended without saying
                more; its last words on standard error are in the message. Open a new channel.
            DeviceError: The program cannot be started (missing, another architecture), or sent a line without an end.
            CancelledError: ``cancel`` was set; the channel stays usable.
        """

    @property
    @abstractmethod
    def errors(self) -> str:
        """The last of what the program wrote to standard error, as text."""

    @abstractmethod
    def close(self) -> None:
        """Closes its input, and ends the program if that does not. Closing twice is harmless."""

    def __enter__(self) -> LineChannel:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class Transport(ABC):
    """A way to one device. Threads may share it; each call stands for itself.

    Errors of every method:
        TransientDeviceError: The device or the way to it is gone, busy or slow right now; a repetition can help. The
            message says what happened and what to check.
        DeviceError: A repetition will not help: unauthorised, another host key, disk full, no such file or program.
        CancelledError: ``cancel`` was set.
        InvalidArgumentError: The call itself cannot be.
        MissingExtraError: The package that this transport needs is not installed.

    Attributes:
        uri: What names the device, such as ``adb:R58N12ABCDE``; without secrets, safe to log.
    """

    uri: str

    @property
    @abstractmethod
    def work_dir(self) -> str:
        """The absolute path of the work directory on the device; found out, and made, on first use."""

    def resolve(self, path: RemotePath) -> str:
        """Returns the absolute path on the device, as an argument for ``run``."""
        return path.on_device(self.work_dir)

    @abstractmethod
    def push(
        self,
        source: Path,
        target: RemotePath,
        *,
        executable: bool = False,
        timeout_s: float = DEFAULT_TRANSFER_TIMEOUT_S,
        stall_s: float = DEFAULT_STALL_S,
        on_progress: OnProgress | None = None,
        cancel: Cancel | None = None,
    ) -> Transfer:
        """Brings a file of the host to the device, folders included, and checks that it arrived.

        What was interrupted goes on where it stopped, when called again with the same content. A file that is there
        with the same content is not sent. The target appears in one step, when its hash is right: never half a file.

        Args:
            source: A regular file.
            target: Where it goes.
            executable: Whether the device may run it.
            timeout_s: For all of it.
            stall_s: How long nothing may move.
            on_progress: Told how far it is.
            cancel: Stops it when set; what was sent stays for the next call.

        Raises:
            StorageError: The source cannot be read.
            InvalidArgumentError: The source is not a file, or changed while it was sent.
        """

    @abstractmethod
    def pull(
        self,
        source: RemotePath,
        target: Path,
        *,
        max_bytes: int = DEFAULT_MAX_PULL_BYTES,
        timeout_s: float = DEFAULT_TRANSFER_TIMEOUT_S,
        stall_s: float = DEFAULT_STALL_S,
        on_progress: OnProgress | None = None,
        cancel: Cancel | None = None,
    ) -> Transfer:
        """Brings a file of the device to the host, and checks that it arrived.

        Resumes like ``push``, and like there the target appears in one step. A device that sends more than it said,
        or more than ``max_bytes``, is stopped.

        Args:
            source: A regular file on the device that nobody writes to any more.
            target: The file on the host; its folder exists.
            max_bytes: The most that is accepted.
            timeout_s: For all of it.
            stall_s: How long nothing may move.
            on_progress: Told how far it is.
            cancel: Stops it when set; what was fetched stays for the next call.

        Raises:
            DeviceError: There is no such file, or it is larger than allowed.
            StorageError: The target cannot be written, or the host has no room for it.
        """

    @abstractmethod
    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout_s: float = DEFAULT_RUN_TIMEOUT_S,
        max_output_bytes: int = DEFAULT_MAX_OUTPUT_BYTES,
        on_output: OnOutput | None = None,
        cancel: Cancel | None = None,
    ) -> RunResult:
        """Runs a program on the device until it ends.

        No shell looks at the arguments. An exit code other than 0 is a result, not an error. When the call ends
        early (timeout, cancel, too much output, an exception in ``on_output``), so does the program.

        Args:
            argv: The program and its arguments.
            stdin: What it reads; then its input is closed.
            timeout_s: After so many seconds it is ended.
            max_output_bytes: The most it may write, both streams together.
            on_output: Told of every piece of output as it comes.
            cancel: Ends it when set.

        Raises:
            TransientDeviceError: It took too long, or the connection went.
            DeviceError: It wrote more than allowed.
        """

    @abstractmethod
    def open_channel(self, argv: Sequence[str]) -> LineChannel:
        """Starts a program on the device and returns the channel to it."""

    @abstractmethod
    def list(self, folder: RemotePath, *, timeout_s: float = DEFAULT_RUN_TIMEOUT_S) -> tuple[RemoteFile, ...]:
        """Returns what a folder holds, sorted by path; nothing if there is no such folder.

        Raises:
            DeviceError: The answer names something outside of the folder or is larger than any real one.
        """

    @abstractmethod
    def remove(self, path: RemotePath, *, timeout_s: float = DEFAULT_RUN_TIMEOUT_S) -> None:
        """Removes a file, or a folder with all it holds; harmless if there is none."""

    def close(self) -> None:  # noqa: B027  (most transports hold nothing open)
        """Ends what is open. Closing twice is harmless."""

    def __enter__(self) -> Transport:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
