"""Makes a folder with an arm64 Linux userland for emulation: C library, Python with headers, NumPy, psutil.

    python tools/arm64_root.py [--if-made]    makes it in the cache if it is not there, prints its path

Data path: Debian's archive -> apt (lists of its own, so that nothing of this system changes) -> dpkg -x -> the folder;
PyPI -> pip (wheels for aarch64) -> its site-packages. Needs Debian or Ubuntu with apt-get and dpkg; no root.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from arm64_packages import Arm64Packages, make_links_relative, run
from third_party import ThirdPartyError, cache_dir, locked, say

PACKAGES = ("libc6", "libpython3-dev", "libstdc++6", "python3")
WHEELS = ("numpy", "psutil")
VERSION = 1  # of what this file makes


def made_root() -> Path:
    """Returns where the folder is, or would be."""
    path: Path = cache_dir() / "arm64" / f"root-{VERSION}"
    return path


def arm64_root() -> Path:
    """Returns the folder, made if it is not there.

    Raises:
        ThirdPartyError: A tool is missing, or the archive cannot be reached.
    """
    root = made_root()
    if root.is_dir():
        return root
    with locked(root):
        if not root.is_dir():
            say("fetching an arm64 userland")
            with tempfile.TemporaryDirectory(dir=root.parent, prefix=".root-") as scratch:
                unpacked = Path(scratch, "root")
                Arm64Packages(Path(scratch, "apt")).unpack(PACKAGES, unpacked, dependencies=True)
                make_links_relative(unpacked)
                _install_wheels(unpacked)
                unpacked.replace(root)  # whole or absent, never half
    return root


def python_of(root: Path) -> Path:
    """Returns the folder's Python, such as ``ROOT/usr/bin/python3.11``."""
    return (root / "usr/bin/python3").resolve()


def python_version(root: Path) -> str:
    """Returns such as ``3.11``."""
    return python_of(root).name.removeprefix("python")


def site_packages(root: Path) -> Path:
    """Returns the folder with NumPy and psutil for that Python."""
    return root / "site-packages"


def _install_wheels(root: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--target", str(site_packages(root)), "--only-binary", ":all:", "--implementation", "cp"]
    command += ["--python-version", python_version(root)]
    for tag in ("manylinux_2_28_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64"):
        command += ["--platform", tag]
    run([*command, *WHEELS])


def main(arguments: list[str]) -> int:
    """Prints the folder's path; with --if-made, fails where it would have to be made."""
    if arguments == ["--if-made"] and not made_root().is_dir():
        print("arm64_root: no arm64 userland here: run `python tools/arm64_root.py`", file=sys.stderr)
        return 1
    print(arm64_root())
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except ThirdPartyError as error:
        sys.exit(f"arm64_root: {error}")
