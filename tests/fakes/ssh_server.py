"""An ssh server in this process, on loopback, whose commands run in this host's shell."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from pathlib import Path
from typing import Any

import asyncssh


class SshServer:
    """Accepts one user key; a command runs in `/bin/sh -c`, as the leader of a group and session of its own.

    As OpenSSH does, it leaves a command running when its channel closes.

    Args:
        folder: Where keys are made: `id`, `id.pub`, `other_id`, `host_key`, `known_hosts`.
        home: The folder in which commands start.
    """

    def __init__(self, folder: Path, home: Path) -> None:
        self.folder = folder
        self.home = home
        self.port = 0
        self.before_each = ""  # what the login shell's start files do
        self.groups: set[int] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: asyncssh.SSHAcceptor | None = None
        self._connections: set[asyncssh.SSHServerConnection] = set()
        for name in ("id", "other_id", "host_key"):
            key = asyncssh.generate_private_key("ssh-ed25519")
            key.write_private_key(str(folder / name))
            key.write_public_key(str(folder / f"{name}.pub"))

    def start(self) -> None:
        self._thread.start()
        self._call(self._listen())
        host_key = (self.folder / "host_key.pub").read_text()
        (self.folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {host_key}")

    def kill_programs(self) -> None:
        """Ends what a cut network, or a client that went, left running."""
        for group in list(self.groups):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)

    def stop(self) -> None:
        self.kill_programs()
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def drop_connections(self) -> None:
        """The network goes: every connection ends without a word."""
        self._loop.call_soon_threadsafe(lambda: [connection.abort() for connection in list(self._connections)])

    async def _listen(self) -> None:
        self._server = await asyncssh.listen(
            "127.0.0.1",
            self.port,
            server_host_keys=[str(self.folder / "host_key")],
            authorized_client_keys=str(self.folder / "id.pub"),
            process_factory=self._run,
            encoding=None,
        )
        self.port = self._server.get_port()

    async def _run(self, process: asyncssh.SSHServerProcess[bytes]) -> None:
        connection: Any = process.get_extra_info("connection")
        self._connections.add(connection)
        child = await asyncio.create_subprocess_exec(
            "/bin/sh",
            "-c",
            self.before_each + (process.command or ""),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=self.home,
            start_new_session=True,
        )
        self.groups.add(child.pid)
        assert child.stdin is not None
        feed = asyncio.create_task(_feed(process, child.stdin))
        await asyncio.gather(_forward(child.stdout, process.stdout), _forward(child.stderr, process.stderr))
        code = await child.wait()
        self.groups.discard(child.pid)
        feed.cancel()
        await asyncio.gather(feed, return_exceptions=True)
        if code < 0:
            process.exit_with_signal(signal.Signals(-code).name.removeprefix("SIG"))
        else:
            process.exit(code)

    async def _close(self) -> None:
        for connection in list(self._connections):
            connection.abort()
        if self._server is not None:
            self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        if tasks:
            await asyncio.wait(tasks, timeout=5.0)  # so that each command's pipes are closed
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _call(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)


async def _feed(process: asyncssh.SSHServerProcess[bytes], target: asyncio.StreamWriter) -> None:
    """Gives the command what the client sends, until its end."""
    with contextlib.suppress(ConnectionError, asyncssh.Error):
        while data := await process.stdin.read(1 << 16):
            target.write(data)
            await target.drain()
    target.close()


async def _forward(source: asyncio.StreamReader | None, target: asyncssh.SSHWriter[bytes]) -> None:
    """Sends the client what the command writes; what nobody listens to any more is read all the same."""
    assert source is not None
    gone = False
    while data := await source.read(1 << 16):
        if gone:
            continue
        try:
            target.write(data)
            await target.drain()
        except (ConnectionError, asyncssh.Error):
            gone = True
