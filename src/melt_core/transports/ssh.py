"""Transport `ssh`: a board or another host, through asyncssh.

The host's key must be known; the user's key comes from the ssh agent or a file; passwords are neither asked for nor
taken. ``~/.ssh/config`` and ``~/.ssh/known_hosts`` are read as by `ssh`.
"""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from collections.abc import Coroutine, Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from melt_core.errors import DeviceError, InvalidArgumentError, MissingExtraError, TransientDeviceError
from melt_core.transports.process import RemoteProcess
from melt_core.transports.shell import ShellTransport
from melt_core.transports.ssh_process import SshProcess, SshSession, started

if TYPE_CHECKING:
    import asyncssh

#: Below the home directory of the user who logs in.
DEFAULT_WORK_DIR = ".cache/melt_agent"
_KEEPALIVE_S = 5.0  # a link that answers none of three is gone

T = TypeVar("T")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SshAddress:
    """Where to log in.

    Attributes:
        host: A name, an address, or an alias of ``~/.ssh/config``.
        user: Who logs in; by default as the configuration says, or this user.
        port: By default as the configuration says, or 22.
    """

    host: str
    user: str | None = None
    port: int | None = None

    @classmethod
    def of(cls, text: str) -> SshAddress:
        """Returns what ``[user@]host[:port]`` names; an IPv6 address stands in brackets.

        Raises:
            InvalidArgumentError: It is something else, or holds a password.
        """
        user, _, place = text.rpartition("@")
        if ":" in user:  # the text itself is not repeated: messages get logged
            raise InvalidArgumentError("the ssh address holds a password: use a key, from the ssh agent or a file")
        parts = re.fullmatch(r"(\[[0-9a-fA-F:.%\w]+\]|[^\s:\[\]/@-][^\s:\[\]/@]*)(?::([0-9]{1,5}))?", place)
        if parts is None or not user.isprintable() or user.startswith("-") or not (0 < int(parts[2] or 22) < 65536):
            raise InvalidArgumentError(f"{text!r} is not an ssh address: write [user@]host[:port]")
        return cls(parts[1].strip("[]"), user or None, int(parts[2]) if parts[2] else None)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.user + '@' if self.user else ''}{host}{f':{self.port}' if self.port else ''}"


class SshTransport(ShellTransport):
    """A device on which an ssh server runs. One connection serves all calls, and is made anew when it broke.

    Starts a thread for the connection; ``close`` ends it.

    Args:
        address: ``[user@]host[:port]``.
        work_dir: On the device; a relative one is below the user's home.
        key_file: The private key to log in with; by default those of the ssh agent and of ``~/.ssh``.
        known_hosts: The file of known host keys, by default ``~/.ssh/known_hosts``.
        check_host_key: Whether the host's key must be known. Without it anybody on the way can be the device.
        connect_timeout_s: How long connecting and logging in may take.
    """

    def __init__(
        self,
        address: str | SshAddress,
        *,
        work_dir: str = DEFAULT_WORK_DIR,
        key_file: Path | None = None,
        known_hosts: Path | None = None,
        check_host_key: bool = True,
        connect_timeout_s: float = 15.0,
    ) -> None:
        self._address = address if isinstance(address, SshAddress) else SshAddress.of(address)
        super().__init__(f"ssh:{self._address}")
        self._wanted_work_dir = work_dir if work_dir.startswith("/") else f"./{work_dir}"
        self._key_file = key_file
        self._known_hosts = known_hosts
        self._check_host_key = check_host_key
        self._connect_timeout_s = connect_timeout_s
        self._lock = threading.Lock()
        self._thread: _LoopThread | None = None
        self._connection: asyncssh.SSHClientConnection | None = None

    def spawn(self, argv: Sequence[str]) -> RemoteProcess:
        """Starts a program on the device."""
        line, mark = started(argv)
        with self._lock:
            thread, connection = self._connected()
        session = SshSession(mark, uri=self.uri)
        try:
            opening = connection.create_session(lambda: session, line, encoding=None)  # type: ignore[arg-type, return-value]
            thread.run(opening, self._connect_timeout_s)
        except Exception as error:
            raise self._error(error, "start a program on") from error
        return SshProcess(session, connection, thread.loop)

    def close(self) -> None:
        """Ends the connection. Closing twice is harmless; a later call connects anew."""
        with self._lock:
            thread, self._thread = self._thread, None
            connection, self._connection = self._connection, None
        if thread is not None:
            thread.stop(connection)

    def _find_work_dir(self) -> str:
        return self._made_work_dir(self._wanted_work_dir)

    def _connected(self) -> tuple[_LoopThread, asyncssh.SSHClientConnection]:
        """Returns the connection, made anew where there is none or it broke."""
        if self._thread is None:
            self._thread = _LoopThread()
        if self._connection is None or self._connection.is_closed():
            self._connection = None
            try:
                self._connection = self._thread.run(self._connect(), self._connect_timeout_s + 1.0)
            except Exception as error:
                raise self._error(error, "log in to") from error
        return self._thread, self._connection

    async def _connect(self) -> asyncssh.SSHClientConnection:
        options: dict[str, Any] = {
            "connect_timeout": self._connect_timeout_s,
            "login_timeout": self._connect_timeout_s,
            "keepalive_interval": _KEEPALIVE_S,
            "preferred_auth": ("publickey",),
            "compression_algs": ["none"],  # weights do not compress
            "agent_forwarding": False,
        }
        if self._address.user is not None:
            options["username"] = self._address.user
        if self._address.port is not None:
            options["port"] = self._address.port
        if self._key_file is not None:
            options["client_keys"] = [str(self._key_file)]
            options["agent_path"] = None
        if not self._check_host_key:
            logger.warning("%s: the host's key is not checked", self.uri)
            options["known_hosts"] = None
        elif self._known_hosts is not None:
            options["known_hosts"] = str(self._known_hosts)
        return await _asyncssh().connect(self._address.host, **options)  # type: ignore[no-any-return]

    def _error(self, error: Exception, action: str) -> Exception:
        """Words what asyncssh or the system said, by who can put it right."""
        if isinstance(error, (MissingExtraError, InvalidArgumentError)):
            return error
        ssh = _asyncssh()
        name = self.uri
        if isinstance(error, ssh.HostKeyNotVerifiable):
            return DeviceError(
                f"cannot {action} {name}: its host key is not the known one, or none is known: {error}. If you trust "
                f"it, log in once with `ssh` and accept the key, or put the right one into known_hosts"
            )
        if isinstance(error, ssh.PermissionDenied):
            return DeviceError(
                f"cannot {action} {name}: no key is accepted there. Add yours to the ssh agent (`ssh-add`) or name its "
                "file, and put its public part into the device's authorized_keys"
            )
        if isinstance(error, (ssh.KeyImportError, ssh.KeyEncryptionError)):
            return DeviceError(f"cannot read a key for {name}: {error}; one with a passphrase goes into the ssh agent")
        if isinstance(error, FileNotFoundError):
            return DeviceError(f"cannot {action} {name}: {error.strerror}: {error.filename}")
        if isinstance(error, (asyncio.TimeoutError, TimeoutError, FutureTimeoutError)):
            return TransientDeviceError(
                f"cannot {action} {name}: no answer within {self._connect_timeout_s:g} s; is it on, and reachable?"
            )
        if isinstance(error, (OSError, ssh.Error)):
            return TransientDeviceError(f"cannot {action} {name}: {error}; check that it is on and runs an ssh server")
        return error


class _LoopThread:
    """A thread that runs an event loop."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="melt-ssh", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T], timeout_s: float) -> T:
        """Returns what the coroutine returns; it is cancelled when the time is up."""
        future = asyncio.run_coroutine_threadsafe(work, self.loop)
        try:
            return future.result(timeout_s)
        except BaseException:
            future.cancel()
            raise

    def stop(self, connection: asyncssh.SSHClientConnection | None) -> None:
        """Closes the connection, and ends the loop and the thread."""

        async def finish() -> None:
            if connection is not None:
                connection.abort()
                await connection.wait_closed()
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        try:
            asyncio.run_coroutine_threadsafe(finish(), self.loop).result(5.0)
        finally:
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(5.0)
            self.loop.close()


def _asyncssh() -> ModuleType:
    try:
        import asyncssh
    except ImportError as error:
        raise MissingExtraError("asyncssh", extra="ssh") from error
    return asyncssh
