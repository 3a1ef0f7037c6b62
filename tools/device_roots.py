"""Makes arm64 stand-ins of devices below build/device-roots: what a phone and a board have as user space.

    python tools/device_roots.py            # makes what is missing
    python tools/device_roots.py --install  # first installs what the host needs for that (root, Debian or Ubuntu)

phone   /system/bin: mksh as sh (the shell of Android), toybox and a few applets of busybox, getprop, dumpsys;
        /data/local/tmp of user 2000; nothing in /lib, so a program that needs glibc fails as it does on a phone
board   /bin: dash and GNU coreutils with glibc, as Debian, Ubuntu and JetPack have them

The packages are Debian's, fetched with apt's own checks into lists of their own and unpacked without installing: the
host's package database is not touched. Running them needs qemu-user and, for chroot, its entry in binfmt_misc.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from arm64_packages import Arm64Packages, run
from third_party import ThirdPartyError

ROOTS = Path(__file__).parents[1] / "build/device-roots"
BINFMT = Path("/proc/sys/fs/binfmt_misc")
HOST_PACKAGES = ("qemu-user-static", "openssh-server", "patchelf")
PHONE_PACKAGES = ("mksh", "toybox", "busybox-static", "libc6", "libcrypt1", "libgcc-s1")
BOARD_PACKAGES = (
    "dash",
    "coreutils",
    "findutils",
    "grep",
    "procps",
    "libproc2-0",
    "libacl1",
    "libattr1",
    "libc6",
    "libgcc-s1",
    "libgmp10",
    "libpcre2-8-0",
    "libselinux1",
    "libstdc++6",
)
#: Android's toybox has these, Debian's build of it has not.
BUSYBOX_APPLETS = ("awk", "dd", "expr", "gzip", "printf", "sleep", "tar", "tr", "uname", "wc")
INTERPRETER = "/system/lib64/ld-linux-aarch64.so.1"
SHELL_USER = 2000  # Android's `shell`
GETPROP = """#!/system/bin/sh
while IFS='=' read -r name value; do
  if [ $# -eq 0 ]; then echo "[$name]: [$value]"; elif [ "$name" = "$1" ]; then echo "$value"; exit 0; fi
done < /system/build.prop
"""
BUILD_PROP = """ro.build.version.release=14
ro.build.version.sdk=34
ro.product.cpu.abi=arm64-v8a
ro.product.manufacturer=melt_core
ro.product.model=stand-in
ro.hardware=qemu-user
ro.soc.model=qemu-max
"""
DUMPSYS = """#!/system/bin/sh
if [ -r "/system/etc/dumpsys/$1" ]; then exec cat "/system/etc/dumpsys/$1"; fi
echo "Can't find service: $1"
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Makes the roots that are missing; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--install", action="store_true", help="install what the host needs; needs root and apt-get")
    arguments = parser.parse_args(argv)
    try:
        if arguments.install:
            install_packages(HOST_PACKAGES)
            register_binfmt()
        if problem := missing():
            raise ThirdPartyError(problem)
        for name, make in (("phone", make_phone), ("board", make_board)):
            print(_made_whole(name, make))
    except ThirdPartyError as error:
        print(f"device_roots: {error}", file=sys.stderr)
        return 1
    return 0


def _made_whole(name: str, make: Callable[[Path], None]) -> Path:
    """Returns a root, made if it is not there or of another version of this file: whole or absent, never half."""
    root, stamp = ROOTS / name, ROOTS / f".{name}.made-by"
    maker = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    if not root.is_dir() or not stamp.exists() or stamp.read_text() != maker:
        with tempfile.TemporaryDirectory(dir=_made(ROOTS), prefix=f".{name}-") as folder:
            make(Path(folder))
            if root.is_dir():
                shutil.rmtree(root)
            (Path(folder) / "root").rename(root)
        stamp.write_text(maker)
    return root


def missing() -> str | None:
    """Returns what this host lacks to make and run the roots, and what to do; None if nothing."""
    for program in ("apt-get", "dpkg-deb", "patchelf", "qemu-aarch64-static"):
        if shutil.which(program) is None:
            return f"{program} is missing: run `python tools/device_roots.py --install` as root on Debian or Ubuntu"
    return None


def install_packages(packages: Sequence[str]) -> None:
    """Installs packages on this host, where they are missing, and starts no service of theirs."""
    absent = [p for p in packages if subprocess.run(["dpkg", "-s", p], capture_output=True).returncode != 0]
    if absent:
        policy = Path("/usr/sbin/policy-rc.d")  # by Debian's convention: exit code 101 keeps services from starting
        ours = not policy.exists()
        if ours:
            policy.write_text("#!/bin/sh\nexit 101\n")
            policy.chmod(0o755)
        try:
            run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *absent])
        finally:
            if ours:
                policy.unlink()


def register_binfmt() -> None:
    """Registers qemu-aarch64 with the kernel, where no boot process did."""
    if not (BINFMT / "register").exists():
        run(["mount", "-t", "binfmt_misc", "none", str(BINFMT)])
    if not (BINFMT / "qemu-aarch64").exists():
        rule = Path("/usr/lib/binfmt.d/qemu-aarch64.conf").read_bytes().strip()
        (BINFMT / "register").write_bytes(rule)


def make_phone(folder: Path) -> None:
    """Makes the root of a phone in folder/root."""
    debian, root = folder / "debian", folder / "root"
    Arm64Packages(folder / "apt").unpack(PHONE_PACKAGES, debian)
    programs = _made(root / "system/bin")
    libraries = _made(root / "system/lib64")
    shutil.copy2(next(debian.glob("usr/lib/*-musl/bin/mksh")), programs / "sh")
    shutil.copy2(_program(debian, "toybox"), programs / "toybox")
    shutil.copy2(_program(debian, "busybox"), programs / "busybox")
    for library in debian.glob("lib/aarch64-linux-gnu/*.so*"):
        shutil.copy2(library, libraries / library.name)
    run(["patchelf", "--set-interpreter", INTERPRETER, "--set-rpath", "/system/lib64", str(programs / "toybox")])
    listed = run(["qemu-aarch64-static", "-L", str(root), str(programs / "toybox")])
    for target, names in (("toybox", listed.split()), ("busybox", BUSYBOX_APPLETS)):
        for name in names:
            if not (programs / name).exists():
                (programs / name).symlink_to(target)
    for name, script in (("getprop", GETPROP), ("dumpsys", DUMPSYS)):
        (programs / name).unlink(missing_ok=True)
        (programs / name).write_text(script)
        (programs / name).chmod(0o755)
    (root / "system/build.prop").write_text(BUILD_PROP)
    for name in ("dev", "proc", "sys", "system/etc/dumpsys"):
        _made(root / name)
    tmp = _made(root / "data/local/tmp")
    tmp.chmod(0o771)
    if os.geteuid() == 0:
        os.chown(tmp, SHELL_USER, SHELL_USER)
    root.chmod(0o755)


def make_board(folder: Path) -> None:
    """Makes the root of a board in folder/root."""
    root = folder / "root"
    Arm64Packages(folder / "apt").unpack(BOARD_PACKAGES, root)
    if not (root / "bin/sh").exists():
        (root / "bin/sh").symlink_to("dash")
    for name in ("dev", "proc", "sys", "tmp", "root", "etc"):
        _made(root / name)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    root.chmod(0o755)


def _program(debian: Path, name: str) -> Path:
    return next(path for path in (debian / "bin" / name, debian / "usr/bin" / name) if path.exists())


def _made(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


if __name__ == "__main__":
    sys.exit(main())
