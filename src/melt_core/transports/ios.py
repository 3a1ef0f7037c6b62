"""Transport `ios`: an iPhone or iPad, through the `pymobiledevice3` command line.

That program is licensed under the GPL: it runs as a process of its own, as the user installed it, and is never
imported. iOS has no shell, so what a device can do here is less: files go in and out of the Documents folder of the app
that hosts the agent (cpp/agent/ios), and that app is launched. Requests to the agent and its answers are files too
(`MailboxChannel`), so the same client measures there as elsewhere.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NoReturn

from melt_core.errors import DeviceError, InvalidArgumentError, StorageError, TransientDeviceError
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
from melt_core.transports.files import arrived_damaged, check_push_target, hash_file, open_source
from melt_core.transports.ios_mailbox import MailboxChannel
from melt_core.transports.local import LocalTransport
from melt_core.transports.paths import RemotePath
from melt_core.transports.process import Deadline
from melt_core.transports.quoting import quote

#: The app of cpp/agent/ios; a build signed by somebody else has another identifier.
DEFAULT_BUNDLE_ID = "org.melt-core.agent"
#: What `apps push --documents` calls the app's Documents folder.
WORK_DIR = "/Documents"
_BLOCK_BYTES = 512  # the unit of ulimit -f
_TOOL_OUTPUT_BYTES = 1 << 20
_PING = b'{"id": 0, "op": "clock"}'
_RUNNING_ANSWER_S = 10.0
_LAUNCHED_ANSWER_S = 60.0
_PING_AGAIN_S = 5.0
_FOLDER_LOOK_S = 0.5
#: Parts of the program's messages after which the same call may succeed, and those where the app is missing a file.
_PASSING = ("usbmuxd", "not connected", "no device", "terminated", "timeout", "timed out", "connection", "unreachable")
_NOT_FOUND = ("object_not_found", "not found", "no such file", "does not exist")


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

    def launch(
        self,
        arguments: Sequence[str] = (),
        *,
        environment: Mapping[str, str] = MappingProxyType({}),
        anew: bool = True,
        timeout_s: float = DEFAULT_RUN_TIMEOUT_S,
    ) -> int:
        """Starts the app and returns its process id.

        Needs Developer Mode, a mounted developer image and, from iOS 17, a tunnel.

        Args:
            arguments: The app's arguments.
            environment: Its environment.
            anew: Whether one that is running is ended first, and its run with it.
            timeout_s: After so many seconds the attempt is ended.
        """
        options: list[str] = [] if anew else ["--no-kill-existing"]
        for name, value in environment.items():
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                raise InvalidArgumentError(f"{name!r} is no name of an environment variable")
            options += ["--env", f"{name}={value}"]
        # The program takes one string and splits it as a shell would.
        line = " ".join(quote(argument) for argument in (self._bundle_id, *arguments))
        said = self.call(["developer", "dvt", "launch", *options, line], timeout_s=timeout_s).text
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
        check_push_target(target)
        deadline = Deadline(timeout_s, what=f"push {source} to {self.uri}", cancel=cancel)
        open_source(source).close()
        size, digest = hash_file(source, deadline)
        where = self.resolve(target)
        command = ["apps", "push", "--documents", self._bundle_id, str(source.absolute()), where]
        self.call(command, timeout_s=deadline.left_s(), cancel=cancel)
        with tempfile.TemporaryDirectory() as folder:
            back = self._fetch(where, Path(folder) / "back", size, deadline)
            arrived = hash_file(back, deadline) == (size, digest)
        if not arrived:
            with contextlib.suppress(DeviceError):
                self.remove(target)
            raise arrived_damaged(source, self.uri)
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
            size, digest = hash_file(part, deadline)
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
        """Raises: iOS runs no commands. ``call`` asks what the host's tool can, ``open_channel`` the agent."""
        self._cannot("run commands")

    def open_channel(self, argv: Sequence[str]) -> LineChannel:
        """Returns a channel to the agent in the app, which is launched if it does not answer.

        Args:
            argv: Not used: the app is the one program there is.
        """
        try:
            return self._answering(_RUNNING_ANSWER_S)
        except (_NotThereError, TransientDeviceError):  # no app that runs, or a way that `launch` will speak of
            self.launch(anew=False)
        return self._answering(_LAUNCHED_ANSWER_S)

    def _answering(self, timeout_s: float) -> MailboxChannel:
        """Returns a channel on which the agent has answered."""
        deadline = Deadline(timeout_s, what=f"wait for the app {self._bundle_id} on {self.uri}", cancel=None)
        while True:
            channel = MailboxChannel(self._put, self._get, name=f"the app {self._bundle_id} on {self.uri}")
            try:
                channel.send(_PING, timeout_s=deadline.left_s())
                with contextlib.suppress(TransientDeviceError):  # an app that starts empties its mailbox: once more
                    channel.receive(timeout_s=min(_PING_AGAIN_S, deadline.left_s()))
                    return channel
            except _NotThereError:  # it has not made its folders yet
                if timeout_s < _LAUNCHED_ANSWER_S:
                    raise
            deadline.wait(_FOLDER_LOOK_S)

    def _put(self, file: Path, path: RemotePath, deadline: Deadline) -> None:
        command = ["apps", "push", "--documents", self._bundle_id, str(file), self.resolve(path)]
        self.call(command, timeout_s=deadline.left_s(), cancel=deadline.cancel)

    def _get(self, path: RemotePath, max_bytes: int, deadline: Deadline) -> bytes | None:
        with tempfile.TemporaryDirectory(prefix="melt-") as folder:
            try:
                return self._fetch(self.resolve(path), Path(folder) / "line", max_bytes, deadline).read_bytes()
            except _NotThereError:
                return None

    def list(self, folder: RemotePath, *, timeout_s: float = DEFAULT_RUN_TIMEOUT_S) -> tuple[RemoteFile, ...]:
        """Raises: the tool lists no app's folder. The agent does: its request ``files``."""
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
