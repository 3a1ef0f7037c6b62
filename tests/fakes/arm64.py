"""Devices with another processor: the arm64 roots of tools/device_roots.py, run by qemu-user."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

from fakes.adb_phone import ends_with_us, free_port

ROOTS = Path(__file__).parents[2] / "build/device-roots"
#: Everything the emulator knows, without its slow pointer authentication.
QEMU_CPU = "max,pauth-impdef=on"

# Each command has mounts of its own, which end with it. The process stays the same up to the shell: signals reach it.
_ENTER_PHONE = """mount -t proc proc "$1/proc" && mount --rbind /dev "$1/dev" && exec env -i PATH=/system/bin HOME=/ \
ANDROID_ROOT=/system ANDROID_DATA=/data TMPDIR=/data/local/tmp QEMU_CPU="$2" \
"$(command -v chroot)" --userspec=2000:2000 "$1" /system/bin/sh -c "$3"
"""
_ENTER_BOARD = """#!/bin/sh
# What sshd runs for every session, whatever the client asked for.
cd / && exec unshare --mount sh -c 'mount -t proc proc "$1/proc" && mount --rbind /dev "$1/dev" && \
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root QEMU_CPU="$2" chroot "$1" /bin/sh -c "cd /root; $3"' \
enter '{root}' '{cpu}' "$SSH_ORIGINAL_COMMAND"
"""
_SSHD_CONFIG = """ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/id.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
ForceCommand {folder}/enter.sh
SetEnv SHLVL=2
"""  # bash reads no .bashrc of this host at a second level


def what_is_missing(*, ssh_server: bool = False) -> str | None:
    """Returns why arm64 roots cannot be run here, and what to do; None if they can."""
    if os.geteuid() != 0:
        return "chroot needs root"
    if not Path("/proc/sys/fs/binfmt_misc/qemu-aarch64").exists():
        return "the kernel runs no arm64 programs: run `python tools/device_roots.py --install` as root"
    if not (ROOTS / "board").is_dir() or not (ROOTS / "phone").is_dir():
        return "no arm64 roots: run `python tools/device_roots.py`"
    if ssh_server and sshd() is None:
        return "no sshd: run `python tools/device_roots.py --install` as root"
    return None


def sshd() -> str | None:
    return shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin")


def copy_root(name: str, folder: Path) -> Path:
    """Returns a copy of a root that the test may change."""
    root = folder / name
    subprocess.run(["cp", "-a", str(ROOTS / name), str(root)], check=True)
    return root


def phone_shell(root: Path) -> list[str]:
    """Returns what stands before a command line that the phone's shell is to run."""
    return ["unshare", "--mount", "sh", "-c", _ENTER_PHONE, "enter", str(root), QEMU_CPU]


class Board:
    """A real ssh server on loopback whose every session lands in the arm64 root of a board.

    Args:
        folder: For keys and configuration.
        root: The board's root.
    """

    def __init__(self, folder: Path, root: Path) -> None:
        self.folder = folder
        self.root = root
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        program = sshd()
        assert program is not None
        for name in ("host_key", "id"):
            key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / name)]
            subprocess.run(key, check=True)
        enter = self.folder / "enter.sh"
        enter.write_text(_ENTER_BOARD.format(cpu=QEMU_CPU, root=self.root))
        enter.chmod(0o755)
        config = self.folder / "sshd_config"
        config.write_text(_SSHD_CONFIG.format(port=self.port, folder=self.folder))
        public = (self.folder / "host_key.pub").read_text()
        (self.folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {public}")
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where sshd separates its privileges
        with (self.folder / "sshd.log").open("wb") as log:
            self._process = subprocess.Popen(
                [*ends_with_us(), program, "-D", "-e", "-f", str(config)], stdout=log, stderr=log
            )
        end = time.monotonic() + 10
        while f"port {self.port}" not in (self.folder / "sshd.log").read_text():
            assert self._process.poll() is None, (self.folder / "sshd.log").read_text()
            assert time.monotonic() < end, "sshd does not start"
            time.sleep(0.02)

    def stop(self) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(10)
