"""A phone on a cable: the adb daemon of `adbd`, plugged into a stock adb server of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path

import adbutils

from fakes.adbd import Daemon
from melt_core.transports import AdbServer, list_adb_devices


def ends_with_us() -> list[str]:
    """Returns what stands before a command that must not outlive the tests, even when these are killed.

    The kernel looks at the thread that started the command: one that ends before the tests do cannot promise that.
    """
    lasts = threading.current_thread() is threading.main_thread()
    return ["setpriv", "--pdeathsig", "TERM"] if lasts and shutil.which("setpriv") else []


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class AdbServerProcess:
    """The adb server that adbutils brings, on a port of its own and with keys of its own.

    Args:
        home: A folder for its keys and its log.
    """

    def __init__(self, home: Path) -> None:
        self.port = free_port()
        self._home = home
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> AdbServer:
        return AdbServer("127.0.0.1", self.port)

    @property
    def environment(self) -> dict[str, str]:
        """What the adb program needs to stay off the machine's own server, devices and keys."""
        return {
            **os.environ,
            "HOME": str(self._home),
            "ANDROID_ADB_SERVER_PORT": str(self.port),
            "ADB_MDNS_AUTO_CONNECT": "0",
            "ADB_LIBUSB": "0",  # a server without it is there at once
            "ADB_LOCAL_TRANSPORT_MAX_PORT": "5553",  # no look at the ports of emulators
        }

    def start(self) -> None:
        command = [*ends_with_us(), adbutils.adb_path(), "-L", f"tcp:localhost:{self.port}", "server", "nodaemon"]
        with (self._home / "adb.log").open("ab") as log:
            self._process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)
        end = time.monotonic() + 20
        while time.monotonic() < end:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise AssertionError("the adb server does not start")

    def stop(self) -> None:
        """Ends the server, also one that was started in its place by whoever found it missing."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            self._process = None
        self.adb("kill-server")

    def adb(self, *arguments: str, timeout_s: float = 30.0) -> subprocess.CompletedProcess[bytes]:
        """Runs the stock adb program against this server."""
        command = [adbutils.adb_path(), "-P", str(self.port), *arguments]
        return subprocess.run(
            command, env=self.environment, capture_output=True, stdin=subprocess.DEVNULL, timeout=timeout_s, check=False
        )


class Phone(Daemon):
    """A device stand-in with the server that it is plugged into.

    Args:
        root: Its file system, as `adb push` sees it.
        server: Where it is plugged in.
        shell: See ``Daemon``.
    """

    def __init__(self, root: Path, server: AdbServerProcess, *, shell: list[str] | None = None) -> None:
        super().__init__(root, shell=shell)
        self.server = server

    @property
    def serial(self) -> str:
        return f"127.0.0.1:{self.port}"

    def attach(self, *, state: str = "device") -> None:
        """Plugs it in and waits until the server sees it in this state."""
        self.plug_in()
        self.server.adb("disconnect", self.serial)
        if state == "device":
            self._connect()
        else:  # the client waits ten seconds for a device that does not come online
            command = [adbutils.adb_path(), "-P", str(self.server.port), "connect", self.serial]
            with subprocess.Popen(
                command, env=self.server.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            ) as waiting:
                self._wait_for(state)
                waiting.kill()

    def _connect(self) -> None:
        """Connects, again if the server drops the new connection while it still clears the broken one away."""
        end = time.monotonic() + 20
        while self.state() != "device":
            assert time.monotonic() < end, f"the phone is {self.state()}, not connected"
            self.server.adb("connect", self.serial)

    def detach(self) -> None:
        """Takes it off the server and stops it."""
        self.server.adb("disconnect", self.serial)
        self.stop()

    def state(self) -> str:
        """Returns what the server says of it."""
        devices = {device.serial: device.state for device in list_adb_devices(self.server.address)}
        return devices.get(self.serial, "absent")

    def _wait_for(self, state: str) -> None:
        end = time.monotonic() + 20
        while self.state() != state:
            assert time.monotonic() < end, f"the phone is {self.state()}, not {state}"
            time.sleep(0.02)
