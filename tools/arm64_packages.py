"""Debian's packages for arm64, fetched with apt's own checks and unpacked into a folder, without installing them.

Data path: Debian's archive -> apt (lists, cache and status of its own) -> dpkg-deb -x -> a folder. This system's
packages and architectures stay as they are. Needs Debian or Ubuntu with apt-get and dpkg; no root.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from third_party import ThirdPartyError


class Arm64Packages:
    """The archive as an arm64 machine sees it; the lists are fetched once for each object."""

    def __init__(self, scratch: Path) -> None:
        """Keeps lists and packages below a folder that the caller removes.

        Raises:
            ThirdPartyError: A tool is missing, or the archive cannot be reached.
        """
        missing = [tool for tool in ("apt-get", "dpkg-deb") if shutil.which(tool) is None]
        if missing:
            raise ThirdPartyError(f"no {' and no '.join(missing)} here: this needs Debian or Ubuntu")
        self._scratch = scratch
        for folder in ("lists/partial", "cache/archives/partial"):
            (scratch / folder).mkdir(parents=True)
        (scratch / "status").touch()
        settings = {
            "APT::Architecture": "arm64",
            "APT::Architectures": "arm64",
            "APT::Sandbox::User": "root",
            "Acquire::Languages": "none",
            "Dir::State::Lists": f"{scratch}/lists",
            "Dir::State::status": f"{scratch}/status",
            "Dir::Cache": f"{scratch}/cache",
        }
        self._options = [f"-o{name}={value}" for name, value in settings.items()]
        self._apt(["update"])

    def unpack(self, packages: Sequence[str], root: Path, *, dependencies: bool = False) -> None:
        """Unpacks packages into a folder, alone or with all that they depend on."""
        fetched = self._scratch / f"debs-{root.name}"
        fetched.mkdir()
        if dependencies:
            self._apt(
                ["--no-install-recommends", "--download-only", "install", *packages],
                options=[f"-oDir::Cache::archives={fetched}", "-y"],
            )
        else:
            self._apt(["download", *packages], folder=fetched)
        root.mkdir(parents=True, exist_ok=True)
        for deb in sorted(fetched.glob("*.deb")):
            run(["dpkg-deb", "-x", str(deb), str(root)])
        shutil.rmtree(fetched)

    def depends(self, package: str) -> list[str]:
        """Returns the names of the packages that one depends on."""
        shown = run(["apt-cache", *self._options, "depends", package])
        return [line.split()[-1] for line in shown.splitlines() if line.strip().startswith("Depends:")]

    def _apt(self, command: list[str], *, options: Sequence[str] = (), folder: Path | None = None) -> None:
        run(["apt-get", *self._options, "-qq", *options, *command], folder=folder)


def make_links_relative(root: Path) -> None:
    """Lets absolute links of the packages point into the folder, as they would after chroot."""
    for path in root.rglob("*"):
        if path.is_symlink() and path.readlink().is_absolute():
            target = root / path.readlink().relative_to("/")
            path.unlink()
            path.symlink_to(os.path.relpath(target, path.parent))


def run(command: Sequence[str], *, folder: Path | None = None) -> str:
    """Returns what a command prints.

    Raises:
        ThirdPartyError: It failed, with its last words.
    """
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        tail = "\n".join(done.stderr.strip().splitlines()[-5:])
        raise ThirdPartyError(f"`{' '.join(command[:2])} ...` failed with exit code {done.returncode}:\n{tail}")
    return done.stdout
