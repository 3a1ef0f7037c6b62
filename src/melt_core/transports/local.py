"""Transport `local`: this host itself, through the same commands as any other device."""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from melt_core.cache import cache_dir
from melt_core.errors import DeviceError, InvalidArgumentError, StorageError
from melt_core.transports.paths import RemotePath
from melt_core.transports.process import Output, RemoteProcess
from melt_core.transports.quoting import shell_line
from melt_core.transports.shell import ShellTransport

_READ_BYTES = 1 << 18


class LocalTransport(ShellTransport):
    """This host, with a work directory of its own.

    Args:
        work_dir: Where files go; ``device`` in the package's cache directory if not given.
    """

    def __init__(self, work_dir: Path | None = None) -> None:
        super().__init__("local")
        self._folder = (work_dir or cache_dir() / "device").absolute()

    def _find_work_dir(self) -> str:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            return str(self._folder.resolve())
        except OSError as error:
            raise StorageError.from_os_error("make", str(self._folder), error) from error

    def resolve(self, path: RemotePath) -> str:
        """Returns the absolute path; here, where the device is the host, symbolic links may not lead out either.

        Raises:
            InvalidArgumentError: A link in the work directory leads out of it.
        """
        text = super().resolve(path)
        holder = os.path.realpath(super().resolve(path.parent))
        if holder != self.work_dir and not holder.startswith(self.work_dir + os.sep):
            raise InvalidArgumentError(f"{text} leads out of the work directory by a link: remove that link")
        return text

    def spawn(self, argv: Sequence[str]) -> RemoteProcess:
        """Starts a program of this host."""
        return _LocalProcess(argv)


class _LocalProcess(RemoteProcess):
    def __init__(self, argv: Sequence[str]) -> None:
        self._child = _start(argv)
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        assert self._child.stderr is not None
        self._stdin: int | None = self._child.stdin.fileno()
        os.set_blocking(self._stdin, False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._child.stdout, selectors.EVENT_READ, "stdout")
        self._selector.register(self._child.stderr, selectors.EVENT_READ, "stderr")

    def poll(self, wait_s: float) -> Output | None:
        if not self._selector.get_map():  # both streams have ended
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = self._child.wait(wait_s)
                self.exit_code = code if code >= 0 else 128 - code
            return None
        for key, _ in self._selector.select(wait_s):
            data = os.read(key.fd, _READ_BYTES)
            if data:
                return Output(key.data, data)
            self._selector.unregister(key.fileobj)
        return None

    def offer(self, data: memoryview, wait_s: float) -> int:
        if self._stdin is None:
            return 0
        with selectors.DefaultSelector() as selector:
            selector.register(self._stdin, selectors.EVENT_WRITE)
            # Its output is watched too: a program that waits for it to be read takes no input.
            for key in self._selector.get_map().values():
                selector.register(key.fd, selectors.EVENT_READ)
            if all(key.fd != self._stdin for key, _ in selector.select(wait_s)):
                return 0
        try:
            return os.write(self._stdin, data)
        except BlockingIOError:
            return 0
        except BrokenPipeError:
            self.close_stdin()
            return 0

    def close_stdin(self) -> None:
        if self._stdin is None:
            return
        self._stdin = None
        assert self._child.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._child.stdin.close()

    def end(self) -> None:
        self.close_stdin()
        if self._child.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._child.pid, signal.SIGHUP)  # what a program of a device gets when the line is cut
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(0.2)
        if self._child.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._child.pid, signal.SIGKILL)
            self._child.wait()
        self._selector.close()
        for pipe in (self._child.stdout, self._child.stderr):
            if pipe is not None:
                pipe.close()


def _start(argv: Sequence[str]) -> subprocess.Popen[bytes]:
    # Through a shell, as on every other device: a missing program is exit code 127 there, and so it is here.
    shell = shutil.which("sh") or "/bin/sh"
    try:
        return subprocess.Popen(
            [shell, "-c", shell_line(argv)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,  # a group of its own: to be ended with its children, and not by our Ctrl-C
        )
    except OSError as error:
        raise DeviceError(
            f"cannot start a shell here for {argv[0]!r}: {error.strerror or error}; check {shell} and the length of "
            "the arguments"
        ) from error
