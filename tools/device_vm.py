"""Makes an arm64 virtual machine below build/device-roots/vm: a board with a kernel of its own, reached over ssh.

    python tools/device_vm.py            # makes it if it is not there, prints its folder
    python tools/device_vm.py --install  # first installs what the host needs (root, Debian or Ubuntu)

vmlinuz      Debian's kernel for arm64
initrd.gz    busybox and the few modules that find the disk and the network
root.img     ext4: the userland of device_roots.py's board, dropbear as ssh server, busybox as init

Nobody can log in but with the key that the kernel's command line brings (``melt.key=``); the server's own key is made
at the first boot and printed to the serial console. tests/fakes/virtual_machine.py starts it. Building needs no root.
"""

from __future__ import annotations

import argparse
import gzip
import io
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from arm64_packages import Arm64Packages, make_links_relative, run
from device_roots import BOARD_PACKAGES, ROOTS, install_packages
from third_party import ThirdPartyError, locked, say

HOST_PACKAGES = ("e2fsprogs", "qemu-system-arm")
KERNEL_PACKAGE = "linux-image-arm64"  # depends on the one of the moment
#: Of the drivers that Debian's kernel has as modules: the disk, its file system, the network. What they need follows.
MODULES = ("virtio_pci", "virtio_blk", "crc32c_generic", "ext4", "virtio_net")
DISK = "200M"
_BUSYBOX = "bin/busybox"

INITRD_INIT = """#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
while read -r module; do /bin/busybox insmod "/modules/$module"; done < /modules/order
while ! /bin/busybox mount -t ext4 /dev/vda /root 2>/dev/null; do /bin/busybox usleep 20000; done
/bin/busybox mount --move /dev /root/dev
exec /bin/busybox switch_root /root /sbin/init
"""
INITTAB = """::sysinit:/sbin/melt-start
::respawn:/usr/sbin/dropbear -F -E -s -j -k -r /etc/dropbear/key
::shutdown:/bin/busybox umount -a -r
"""
START = """#!/bin/busybox sh
PATH=/usr/sbin:/usr/bin:/sbin:/bin
busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
busybox mount -t tmpfs tmp /tmp
busybox mkdir -p /dev/pts /root/.ssh /etc/dropbear
busybox mount -t devpts pts /dev/pts
busybox ifconfig lo 127.0.0.1
busybox ifconfig eth0 10.0.2.15 netmask 255.255.255.0  # what qemu's user network gives its guest
read -r line < /proc/cmdline
for word in $line; do
  case $word in melt.key=*) echo "ssh-ed25519 ${word#melt.key=}" > /root/.ssh/authorized_keys;; esac
done
[ -s /etc/dropbear/key ] || dropbearkey -t ed25519 -f /etc/dropbear/key > /dev/null
echo "melt-host-key $(dropbearkey -y -f /etc/dropbear/key | busybox grep ^ssh-)" > /dev/console
"""
FILES = {
    "etc/passwd": ("root:x:0:0:root:/root:/bin/sh\n", 0o644),
    "etc/group": ("root:x:0:\n", 0o644),
    "etc/shells": ("/bin/sh\n", 0o644),
    "etc/inittab": (INITTAB, 0o644),
    "sbin/melt-start": (START, 0o755),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Makes the machine if it is missing; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--install", action="store_true", help="install what the host needs; needs root and apt-get")
    arguments = parser.parse_args(argv)
    try:
        if arguments.install:
            install_packages(HOST_PACKAGES)
        print(made())
    except ThirdPartyError as error:
        print(f"device_vm: {error}", file=sys.stderr)
        return 1
    return 0


def made() -> Path:
    """Returns the machine's folder, made if it is not there.

    Raises:
        ThirdPartyError: A program is missing, or the archive cannot be reached.
    """
    folder = ROOTS / "vm"
    with locked(folder):
        if not folder.is_dir():
            if shutil.which("mke2fs", path="/usr/sbin:/sbin:/usr/bin") is None:
                raise ThirdPartyError("mke2fs is missing: run `python tools/device_vm.py --install` as root")
            with tempfile.TemporaryDirectory(dir=ROOTS, prefix=".vm-") as scratch:
                _make(Path(scratch), Path(scratch, "made"))
                Path(scratch, "made").rename(folder)  # whole or absent, never half
    return folder


def _make(scratch: Path, target: Path) -> None:
    say("fetching an arm64 kernel and its userland")
    packages = Arm64Packages(scratch / "apt")
    kernel, root = scratch / "kernel", scratch / "root"
    packages.unpack([next(name for name in packages.depends(KERNEL_PACKAGE) if "linux-image" in name)], kernel)
    packages.unpack(["busybox-static", "dropbear-bin", *BOARD_PACKAGES], root, dependencies=True)
    make_links_relative(root)
    target.mkdir()
    shutil.copyfile(next(kernel.glob("boot/vmlinuz-*")), target / "vmlinuz")
    (target / "initrd.gz").write_bytes(initrd(kernel, (root / _BUSYBOX).read_bytes()))
    _furnish(root)
    mke2fs = shutil.which("mke2fs", path="/usr/sbin:/sbin:/usr/bin") or "mke2fs"
    options = ["-q", "-t", "ext4", "-m", "0", "-E", "root_owner=0:0"]
    run([mke2fs, *options, "-d", str(root), str(target / "root.img"), DISK])


def _furnish(root: Path) -> None:
    """Adds what no package brings: folders, the first program, and who may log in."""
    for name in ("dev", "proc", "sys", "tmp", "root", "run", "sbin"):
        (root / name).mkdir(exist_ok=True)
    for folder in ("usr/share/doc", "usr/share/man", "usr/share/locale"):
        shutil.rmtree(root / folder, ignore_errors=True)
    for path, (text, mode) in FILES.items():
        (root / path).write_text(text)
        (root / path).chmod(mode)
    for name in ("init", "reboot"):
        (root / "sbin" / name).unlink(missing_ok=True)
        (root / "sbin" / name).symlink_to("../bin/busybox")


def initrd(kernel: Path, busybox: bytes) -> bytes:
    """Returns the first file system of the machine, as a compressed cpio archive."""
    modules = {path.stem: path for path in kernel.glob("lib/modules/*/kernel/**/*.ko")}
    order: list[str] = []
    for name in MODULES:
        _add_module(name, modules, order)
    files: dict[str, tuple[int, bytes]] = dict.fromkeys(("bin", "dev", "modules", "root"), (0o040755, b""))
    files["init"] = (0o100755, INITRD_INIT.encode())
    files[_BUSYBOX] = (0o100755, busybox)
    files["modules/order"] = (0o100644, "".join(f"{name}.ko\n" for name in order).encode())
    for name in order:
        files[f"modules/{name}.ko"] = (0o100644, modules[name].read_bytes())
    return gzip.compress(_cpio(files), compresslevel=3, mtime=0)


def _add_module(name: str, modules: dict[str, Path], order: list[str]) -> None:
    """Adds a module behind those it needs; one that the kernel has built in has no file."""
    name = name.replace("-", "_")
    path = modules.get(name) or modules.get(name.replace("_", "-"))
    if path is None or path.stem in order:
        return
    found = re.search(rb"\0depends=([^\0]*)\0", path.read_bytes())
    for needed in (found[1].decode() if found else "").split(","):
        if needed:
            _add_module(needed, modules, order)
    order.append(path.stem)


def _cpio(files: dict[str, tuple[int, bytes]]) -> bytes:
    """Returns files and folders by path as an archive that the kernel unpacks (cpio "newc")."""
    out = io.BytesIO()
    for number, (name, (mode, data)) in enumerate([*files.items(), ("TRAILER!!!", (0, b""))], start=1):
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        out.write(b"070701" + "".join(f"{field:08x}" for field in fields).encode() + name.encode() + b"\0")
        out.write(bytes(-out.tell() % 4) + data)
        out.write(bytes(-out.tell() % 4))
    return out.getvalue()


if __name__ == "__main__":
    sys.exit(main())
