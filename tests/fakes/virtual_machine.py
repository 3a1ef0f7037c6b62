"""An arm64 machine of its own (tools/device_vm.py) under qemu-system: a real kernel, disk, network card and reset."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import asyncssh

from fakes.adb_phone import ends_with_us, free_port

IMAGES = Path(__file__).parents[2] / "build/device-roots/vm"
BOOT_S = 120.0  # seconds on a quiet machine, more on a busy one


def what_is_missing() -> str | None:
    """Returns why no virtual machine can be started here, and what to do; None if one can."""
    if shutil.which("qemu-system-aarch64") is None or not IMAGES.is_dir():
        return "no arm64 virtual machine: run `python tools/device_vm.py --install`"
    return None


class VirtualMachine:
    """A board that boots, answers ssh on loopback, and can be unplugged and reset. Its disk lasts as long as it does.

    Args:
        folder: For keys, the console's log and the monitor's socket.
        memory_mb: What it has.
    """

    def __init__(self, folder: Path, *, memory_mb: int = 1024) -> None:
        self.folder = folder
        self.port = free_port()
        self._memory_mb = memory_mb
        self._console = folder / "console.log"
        self._process: subprocess.Popen[bytes] | None = None
        key = asyncssh.generate_private_key("ssh-ed25519")
        key.write_private_key(str(folder / "id"))
        self._public = key.export_public_key().decode().split()[1]

    def start(self) -> None:
        """Starts it; `wait_for_boot` says when it can be reached."""
        kernel = f"console=ttyAMA0 quiet panic=1 mitigations=off melt.key={self._public}"
        command = [
            "qemu-system-aarch64", "-M", "virt", "-cpu", "max,pauth-impdef=on", "-accel", "tcg,thread=multi",
            "-smp", "2", "-m", str(self._memory_mb), "-display", "none", "-nodefaults",
            "-serial", f"file:{self._console}", "-qmp", f"unix:{self.folder}/qmp,server=on,wait=off",
            "-kernel", str(IMAGES / "vmlinuz"), "-initrd", str(IMAGES / "initrd.gz"), "-append", kernel,
            "-drive", f"file={IMAGES}/root.img,format=raw,if=none,id=disk,snapshot=on",
            "-device", "virtio-blk-pci,drive=disk",
            "-netdev", f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{self.port}-:22",
            "-device", "virtio-net-pci,id=card,netdev=net,romfile=",
        ]  # fmt: skip
        with (self.folder / "qemu.log").open("wb") as log:
            self._process = subprocess.Popen([*ends_with_us(), *command], stdin=subprocess.DEVNULL, stderr=log)

    def wait_for_boot(self, boots: int = 1) -> None:
        """Waits until it has started that often, and writes its key to ``known_hosts``."""
        assert self._process is not None
        end = time.monotonic() + BOOT_S
        while True:
            said = self._console.read_text(errors="replace") if self._console.exists() else ""
            keys = re.findall(r"melt-host-key (ssh-ed25519 \S+)", said)
            if len(keys) >= boots and self._answers():
                break
            assert self._process.poll() is None, (self.folder / "qemu.log").read_text()
            assert time.monotonic() < end, said[-2000:]
            time.sleep(0.05)
        (self.folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {keys[-1]}\n")

    def _answers(self) -> bool:
        """Returns whether the ssh server greets; before that, qemu takes connections and resets them."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as probe:
                return probe.recv(4) == b"SSH-"
        except OSError:
            return False

    def reset(self) -> None:
        """Presses the reset button: nothing is told to end, nothing more reaches the disk."""
        self._monitor("system_reset")

    def plug_network(self, *, plugged: bool) -> None:
        """Pulls the network cable out, or puts it back."""
        self._monitor("set_link", name="card", up=plugged)

    def stop(self) -> None:
        """Switches it off; its disk is gone with it."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)

    def _monitor(self, command: str, **arguments: Any) -> None:
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.settimeout(10)
            monitor.connect(str(self.folder / "qmp"))
            lines = monitor.makefile("rw")
            lines.readline()
            for line in ({"execute": "qmp_capabilities"}, {"execute": command, "arguments": arguments}):
                lines.write(json.dumps(line) + "\n")
                lines.flush()
                while "event" in (answer := json.loads(lines.readline())):
                    pass
                assert "return" in answer, answer
