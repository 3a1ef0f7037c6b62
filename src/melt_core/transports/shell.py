"""What every device with a shell has in common: all of the interface, built on one primitive, ``spawn``.

The scripts here are constants, run by the device's ``sh``; what varies reaches them as ``"$1"``, ``"$2"``. They use
what toybox (Android 8 and newer), busybox and GNU have alike: cat, chmod, dd, find, mkdir, mv, rm, sha256sum, stat,
tail.
"""

from __future__ import annotations

import re
import secrets
import threading
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path

from melt_core.errors import DeviceError, InvalidArgumentError
from melt_core.transports import files
from melt_core.transports.base import (
    DEFAULT_MAX_OUTPUT_BYTES,
    DEFAULT_MAX_PULL_BYTES,
    DEFAULT_RUN_TIMEOUT_S,
    DEFAULT_STALL_S,
    DEFAULT_TRANSFER_TIMEOUT_S,
    Cancel,
    LineChannel,
    OnOutput,
    OnProgress,
    RemoteFile,
    RunResult,
    Transfer,
    Transport,
)
from melt_core.transports.channel import ProcessChannel
from melt_core.transports.paths import RemotePath
from melt_core.transports.process import Deadline, RemoteProcess
from melt_core.transports.quoting import check_argv

_MAX_LISTING_BYTES = 8 << 20
# The mark after each entry is new every time, so no name can hold it.
_LIST = '[ -d "$1" ] || exit 0; exec find "$1/." -mindepth 1 -maxdepth 1 -exec stat -c "%f %s %Y %n$2" {} +'
_MAKE_WORK_DIR = 'mkdir -p "$1" && cd "$1" && pwd -P'
_REMOVE = 'exec rm -rf "$1"'
_KIND_BITS = 0o170000
_KINDS: dict[int, str] = {0o100000: "file", 0o040000: "folder", 0o120000: "link"}


class ShellTransport(Transport):
    """A device with a POSIX shell. A subclass says how to start a program there and where the work directory is.

    Args:
        uri: What names the device, without secrets.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._work_dir: str | None = None
        self._work_dir_lock = threading.Lock()

    @abstractmethod
    def spawn(self, argv: Sequence[str]) -> RemoteProcess:
        """Starts a program on the device.

        Raises:
            TransientDeviceError: The device cannot be reached now.
            DeviceError: It does not let us.
        """

    @abstractmethod
    def _find_work_dir(self) -> str:
        """Makes the work directory if there is none and returns its absolute path."""

    def _made_work_dir(self, wanted: str) -> str:
        """Makes a directory of the device and returns its absolute path there, with links resolved."""
        result = self.run(["sh", "-c", _MAKE_WORK_DIR, "melt", wanted], max_output_bytes=files.SMALL_REPLY_BYTES)
        if result.exit_code != 0:
            raise DeviceError(
                f"cannot use {wanted!r} on {self.uri} as work directory: {files.last_words(result)}; name another one"
            )
        return result.stdout.decode("utf-8", "surrogateescape").removesuffix("\n")

    @property
    def work_dir(self) -> str:
        """The absolute path of the work directory on the device; found out, and made, on first use."""
        with self._work_dir_lock:
            if self._work_dir is None:
                found = self._find_work_dir()
                if not found.startswith("/") or found.rstrip("/") == "" or "/../" in f"{found}/" or "\0" in found:
                    raise DeviceError(f"{self.uri} has no usable work directory: {found!r} is not an absolute path")
                self._work_dir = found
            return self._work_dir

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
        """Runs a program on the device until it ends; see the interface."""
        program = check_argv(argv)[0]
        deadline = Deadline(timeout_s, what=f"run {program!r} on {self.uri}", cancel=cancel)
        deadline.slice_s()  # cancelled before it began
        kept = {"stdout": bytearray(), "stderr": bytearray()}
        process = self.spawn(argv)
        try:
            rest = memoryview(stdin)
            for output in files.outputs(process, rest, deadline):
                kept[output.stream] += output.data
                if len(kept["stdout"]) + len(kept["stderr"]) > max_output_bytes:
                    raise DeviceError(
                        f"{program!r} on {self.uri} wrote more than {max_output_bytes} bytes and was ended; allow more "
                        "with max_output_bytes, or write to a file and pull that"
                    )
                if on_output is not None:
                    on_output(output.stream, output.data)
        finally:
            process.end()
        assert process.exit_code is not None
        return RunResult(process.exit_code, bytes(kept["stdout"]), bytes(kept["stderr"]), deadline.elapsed_s)

    def open_channel(self, argv: Sequence[str]) -> LineChannel:
        """Starts a program on the device and returns the channel to it."""
        arguments = check_argv(argv)
        return ProcessChannel(self.spawn(arguments), name=f"{arguments[0]!r} on {self.uri}")

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
        """Brings a file of the host to the device; see the interface."""
        deadline = Deadline(timeout_s, what=f"push {source} to {self.uri}", cancel=cancel, stall_s=stall_s)
        return files.push(self, source, target, executable=executable, deadline=deadline, on_progress=on_progress)

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
        """Brings a file of the device to the host; see the interface."""
        deadline = Deadline(timeout_s, what=f"pull {str(source)!r} from {self.uri}", cancel=cancel, stall_s=stall_s)
        return files.pull(self, source, target, max_bytes=max_bytes, deadline=deadline, on_progress=on_progress)

    def list(self, folder: RemotePath, *, timeout_s: float = DEFAULT_RUN_TIMEOUT_S) -> tuple[RemoteFile, ...]:
        """Returns what a folder holds; see the interface."""
        mark = f"//{secrets.token_hex(16)}\n"
        where = self.resolve(folder)
        result = self.run(
            ["sh", "-c", _LIST, "melt", where, mark.rstrip("\n")],
            timeout_s=timeout_s,
            max_output_bytes=_MAX_LISTING_BYTES,
        )
        if result.exit_code != 0:
            raise DeviceError(f"cannot list {where} on {self.uri}: {files.last_words(result)}")
        *entries, rest = result.stdout.decode("utf-8", "surrogateescape").split(mark)
        if rest:
            raise DeviceError(f"the listing of {where} on {self.uri} is cut short: {rest[:80]!r}")
        return tuple(sorted((self._entry(folder, where, entry) for entry in entries), key=lambda entry: entry.path))

    def remove(self, path: RemotePath, *, timeout_s: float = DEFAULT_RUN_TIMEOUT_S) -> None:
        """Removes a file, or a folder with all it holds; harmless if there is none."""
        where = self.resolve(path)
        result = self.run(["sh", "-c", _REMOVE, "melt", where], timeout_s=timeout_s)
        if result.exit_code != 0:
            raise DeviceError(f"cannot remove {where} on {self.uri}: {files.last_words(result)}")

    def _entry(self, folder: RemotePath, where: str, text: str) -> RemoteFile:
        prefix = f"{where}/./"
        parts = re.fullmatch(r"([0-9a-f]{1,8}) ([0-9]{1,19}) (-?[0-9]{1,19}) (.*)", text, re.DOTALL)
        if parts is None or not parts[4].startswith(prefix):
            raise DeviceError(f"{self.uri} answered a listing of {where} with {text[:120]!r}: not an entry of it")
        name = parts[4][len(prefix) :]
        try:
            path = RemotePath((*folder.parts, name))
        except InvalidArgumentError as error:
            raise DeviceError(f"{self.uri} lists a name that leads out of {where}: {error}") from error
        kind = _KINDS.get(int(parts[1], 16) & _KIND_BITS, "other")
        return RemoteFile(path, kind, int(parts[2]), int(parts[3]))  # type: ignore[arg-type]
