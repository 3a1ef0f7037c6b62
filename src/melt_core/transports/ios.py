"""Transport `ios`: an iPhone or iPad, through the `pymobiledevice3` command line.

That program is licensed under the GPL: it runs as a process of its own, as the user installed it, and is never
imported. iOS has no shell, so what a device can do here is less: files go in and out of the Documents folder of the app
that hosts the agent, that app can be launched, and lines travel as files (see ``_Mailbox``).
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
import secrets
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from melt_core.errors import DeviceError, InvalidArgumentError, StorageError, TransientDeviceError
from melt_core.transports.base import (
    DEFAULT_MAX_OUTPUT_BYTES,
    DEFAULT_MAX_PULL_BYTES,
    DEFAULT_RUN_TIMEOUT_S,
    DEFAULT_STALL_S,
    DEFAULT_TRANSFER_TIMEOUT_S,
    MAX_LINE_BYTES,
    Cancel,
    LineChannel,
    OnOutput,
    OnProgress,
    RemoteFile,
    RunResult,
    Transfer,
    Transport,
)
from melt_core.transports.local import LocalTransport
from melt_core.transports.paths import RemotePath
from melt_core.transports.process import SLICE_S, Deadline
from melt_core.transports.quoting import quote

#: The app of cpp/agent/ios; a build signed by somebody else has another identifier.
DEFAULT_BUNDLE_ID = "org.melt-core.agent"
#: What `apps push --documents` calls the app's Documents folder, and our folder in it; the app makes it at its start.
WORK_DIR = "/Documents/melt"
_BLOCK_BYTES = 512  # the unit of ulimit -f
_TOOL_OUTPUT_BYTES = 1 << 20
#: Parts of the program's messages after which the same call may succeed, and those where the app is missing a file.
_PASSING = ("usbmuxd", "not connected", "no device", "terminated", "timeout", "timed out", "connection", "unreachable")
_NOT_FOUND = ("object_not_found", "not found", "no such file", "does not exist")

logger = logging.getLogger(__name__)


class IosTransport(Transport):
    """An iOS device that usbmuxd reaches.

    Unlike elsewhere, a push does not resume and the file appears while it is written; it is checked by reading it back.
    What is pulled has no hash of the device to compare with: compare it with what the agent says.

    Args:
        udid: As `pymobiledevice3 usbmux list` lists it.
        bundle_id: The app that hosts the agent.
        tool: The program, with arguments before all others if need be.
    """

    def __init__(
        self, udid: str, *, bundle_id: str = DEFAULT_BUNDLE_ID, tool: Sequence[str] = ("pymobiledevice3",)
    ) -> None:
        if not re.fullmatch(r"[0-9A-Za-z][0-9A-Za-z-]{7,63}", udid):
            raise InvalidArgumentError(f"{udid[:80]!r} is no UDID: `pymobiledevice3 usbmux list` lists them")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]{0,254}", bundle_id):
            raise InvalidArgumentError(f"{bundle_id[:80]!r} is no bundle identifier, such as {DEFAULT_BUNDLE_ID}")
        self.uri = f"ios:{udid}"
        self._udid = udid
        self._bundle_id = bundle_id
        self._tool = list(tool)
        self._host = LocalTransport()

    @property
    def work_dir(self) -> str:
        """The folder in the app's container."""
        return WORK_DIR

    def call(
        self,
        arguments: Sequence[str],
        *,
        timeout_s: float = DEFAULT_RUN_TIMEOUT_S,
        on_output: OnOutput | None = None,
        cancel: Cancel | None = None,
        max_file_bytes: int | None = None,
    ) -> RunResult:
        """Runs one command of `pymobiledevice3` for this device, such as ``["diagnostics", "battery", "single"]``.

        Args:
            arguments: The command; ``--udid`` is added.
            timeout_s: After so many seconds it is ended.
            on_output: Told of every piece of output as it comes.
            cancel: Ends it when set.
            max_file_bytes: The most it may write into one file of the host.

        Raises:
            DeviceError: It is not installed, or says what is wrong with the device.
            TransientDeviceError: It says that the device is not there now.
        """
        argv = [*self._tool, *arguments, "--udid", self._udid]
        if max_file_bytes is not None:
            blocks = str(max_file_bytes // _BLOCK_BYTES + 1)
            argv = ["sh", "-c", 'ulimit -f "$1" && shift && exec "$@"', "melt", blocks, *argv]
        result = self._host.run(
            argv, timeout_s=timeout_s, max_output_bytes=_TOOL_OUTPUT_BYTES, on_output=on_output, cancel=cancel
        )
        if result.exit_code != 0:
            raise self._error(arguments, result)
        return result

    def launch(self, arguments: Sequence[str] = (), *, timeout_s: float = DEFAULT_RUN_TIMEOUT_S) -> int:
        """Starts the app (a running one is ended first) and returns its process id.

        Needs Developer Mode, a mounted developer image and, from iOS 17, a tunnel.
        """
        # The program takes one string and splits it as a shell would.
        line = " ".join(quote(argument) for argument in (self._bundle_id, *arguments))
        said = self.call(["developer", "dvt", "launch", line], timeout_s=timeout_s).text
        found = re.search(r"launched with pid ([0-9]{1,10})", said)
        if found is None:
            raise DeviceError(f"{self.uri} did not say that {self._bundle_id} was launched: {said.strip()[:200]!r}")
        return int(found[1])

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
        """Brings a file into the app's folder and reads it back; the folder that it goes to must be there."""
        if executable:
            raise InvalidArgumentError("iOS runs no pushed programs: the agent is part of its app")
        if not target.parts:
            raise InvalidArgumentError("push needs a file name below the work directory, not the work directory itself")
        if not source.is_file():
            raise StorageError.from_os_error("read", str(source), OSError(2, "not a file"))
        deadline = Deadline(timeout_s, what=f"push {source} to {self.uri}", cancel=cancel)
        size, digest = source.stat().st_size, _hash_of(source)
        where = self.resolve(target)
        command = ["apps", "push", "--documents", self._bundle_id, str(source.absolute()), where]
        self.call(command, timeout_s=deadline.left_s(), cancel=cancel)
        with tempfile.TemporaryDirectory() as folder:
            back = self._fetch(where, Path(folder) / "back", size, deadline)
            arrived = back.stat().st_size == size and _hash_of(back) == digest
        if not arrived:
            with contextlib.suppress(DeviceError):
                self.remove(target)
            raise TransientDeviceError(f"{source} arrived damaged on {self.uri} and was removed there: try again")
        if on_progress is not None:
            on_progress(size, size)
        return Transfer(target, size, digest, size, 0)

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
        """Brings a file of the app's folder to the host; compare its hash with what the agent says."""
        deadline = Deadline(timeout_s, what=f"pull {str(source)!r} from {self.uri}", cancel=cancel)
        if not target.parent.is_dir():
            raise StorageError.from_os_error("write", str(target), OSError(2, "its folder is not there"))
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".melt-pull-") as folder:
            part = self._fetch(self.resolve(source), Path(folder) / "part", max_bytes, deadline)
            size, digest = part.stat().st_size, _hash_of(part)
            if size > max_bytes:
                raise self._too_large(self.resolve(source), max_bytes)
            part.replace(target)
        if on_progress is not None:
            on_progress(size, size)
        return Transfer(source, size, digest, size, 0)

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
        """Raises: iOS runs no commands. Use ``call`` for what the host's tool can ask, ``launch`` for the app."""
        self._cannot("run commands")

    def open_channel(self, argv: Sequence[str]) -> LineChannel:
        """Launches the app with the arguments after the program's name, and returns the channel to its agent."""
        arguments = list(argv)
        session = secrets.token_hex(8)
        self.launch([*arguments[1:], "--mailbox", session])
        return _Mailbox(self, session)

    def list(self, folder: RemotePath, *, timeout_s: float = DEFAULT_RUN_TIMEOUT_S) -> tuple[RemoteFile, ...]:
        """Raises: the tool has no listing that a program can read. The agent's request ``files`` has one."""
        self._cannot("list files (the agent's request `files` can)")

    def remove(self, path: RemotePath, *, timeout_s: float = DEFAULT_RUN_TIMEOUT_S) -> None:
        """Removes a file; harmless if there is none."""
        try:
            self.call(["apps", "rm", "--documents", self._bundle_id, self.resolve(path)], timeout_s=timeout_s)
        except _NotThereError:
            return

    def _fetch(self, where: str, target: Path, max_bytes: int, deadline: Deadline) -> Path:
        """Pulls a file into one that is not there yet, with a bound on what the tool may write."""
        try:
            self.call(
                ["apps", "pull", "--documents", self._bundle_id, where, str(target)],
                timeout_s=deadline.left_s(),
                cancel=deadline.cancel,
                max_file_bytes=max_bytes,
            )
        except DeviceError:
            if target.is_file() and target.stat().st_size > max_bytes // _BLOCK_BYTES * _BLOCK_BYTES:
                raise self._too_large(where, max_bytes) from None
            raise
        if not target.is_file():
            raise DeviceError(f"{self.uri} gave no file {where}: is it a folder?")
        return target

    def _too_large(self, where: str, max_bytes: int) -> DeviceError:
        return DeviceError(f"{where} on {self.uri} has more than the {max_bytes} bytes allowed: max_bytes")

    def _cannot(self, what: str) -> NoReturn:
        raise DeviceError(f"{self.uri} cannot {what}: iOS has no shell, only the agent's app {self._bundle_id}")

    def _error(self, arguments: Sequence[str], result: RunResult) -> DeviceError:
        """Words what the tool says; it tells the kinds apart by its messages alone, all end with exit code 1."""
        if result.exit_code == 127:
            return DeviceError(
                f"{self._tool[0]} is not installed: `pip install pymobiledevice3` into an environment of its own (its "
                "licence is the GPL) and put it on the path"
            )
        lines = result.stderr.decode("utf-8", "replace").strip().splitlines()
        errors = [line.partition(" ERROR ")[2] for line in lines if " ERROR " in line]
        said = (errors or lines or [f"exit code {result.exit_code}"])[-1][:500]
        text = f"`pymobiledevice3 {' '.join(arguments[:3])}` for {self.uri}: {said}"
        if any(word in said.lower() for word in _NOT_FOUND):
            return _NotThereError(f"{text}; launch {self._bundle_id} once, so that it makes its folders")
        if any(word in said.lower() for word in _PASSING):
            return TransientDeviceError(f"{text}; check the cable, unlock the device, and see that usbmuxd runs")
        return DeviceError(f"{text}; is Developer Mode on, this computer trusted, and {self._bundle_id} installed?")


class _NotThereError(DeviceError):
    """The file or its folder is not on the device."""


class _Mailbox(LineChannel):
    """Lines to and from the agent's app, each a file, since an app has no standard input that a host can reach.

    Line number N goes to ``mailbox/in/SESSION-N``, complete when it ends in a newline; the app answers with
    ``mailbox/out/SESSION-N``, which it writes under another name and renames. The app removes what it has read, and an
    answer when the next request comes. Each way takes as long as the tool needs to start: about a second.
    """

    def __init__(self, transport: IosTransport, session: str) -> None:
        self._transport = transport
        self._session = session
        self._sent = 0
        self._received = 0
        self._closed = False

    def send(self, line: bytes, *, timeout_s: float = DEFAULT_RUN_TIMEOUT_S, cancel: Cancel | None = None) -> None:
        """Sends one line; see the interface."""
        if b"\n" in line or len(line) >= MAX_LINE_BYTES:
            raise InvalidArgumentError(f"a line has no newline in it and fewer than {MAX_LINE_BYTES} bytes")
        self._check_open()
        with tempfile.NamedTemporaryFile() as file:
            file.write(line + b"\n")
            file.flush()
            target = self._path("in", self._sent + 1)
            self._transport.push(Path(file.name), target, timeout_s=timeout_s, cancel=cancel)
        self._sent += 1

    def receive(self, *, timeout_s: float = DEFAULT_RUN_TIMEOUT_S, cancel: Cancel | None = None) -> bytes:
        """Returns the answer to the oldest line that has none yet; see the interface."""
        self._check_open()
        if self._received == self._sent:
            raise InvalidArgumentError("nothing was asked: an agent speaks only when asked")
        deadline = Deadline(timeout_s, what=f"wait for the agent's app on {self._transport.uri}", cancel=cancel)
        source = self._path("out", self._received + 1)
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "line"
            while True:
                slice_s = deadline.slice_s()
                try:
                    self._transport.pull(
                        source, target, max_bytes=MAX_LINE_BYTES, timeout_s=deadline.left_s(), cancel=cancel
                    )
                    break
                except _NotThereError:
                    deadline.pause(min(slice_s, SLICE_S))
            line = target.read_bytes()
        self._received += 1
        return line.removesuffix(b"\n")

    @property
    def errors(self) -> str:
        """Nothing: an app has no standard error that a host can reach."""
        return ""

    def close(self) -> None:
        """Forgets the channel; the app goes on, as do the runs it has started."""
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise TransientDeviceError(f"the channel to {self._transport.uri} is closed: open a new one")

    def _path(self, box: str, number: int) -> RemotePath:
        return RemotePath(("mailbox", box, f"{self._session}-{number}"))


def _hash_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
