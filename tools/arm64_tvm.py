"""Fetches TVM's runtime for aarch64 Linux, of the release that is installed here; prints its folder in the cache.

    python tools/arm64_tvm.py [--if-made]    # for `melt profile DIR --runtime mlc --runtime-path ... --device ssh:...`

Data path: PyPI -> pip (wheels for aarch64) -> libtvm_ffi and libtvm_runtime alone; the compiler beside them is 240 MB.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from arm64_packages import run
from third_party import ThirdPartyError, cache_dir, locked, say

PACKAGES = ("apache-tvm", "apache-tvm-ffi")
LIBRARIES = ("libtvm_ffi.so", "libtvm_runtime.so")
PLATFORM = "manylinux_2_28_aarch64"


def wanted() -> list[str]:
    """Returns the packages with the versions that are installed.

    Raises:
        ThirdPartyError: They are not.
    """
    try:
        return [f"{name}=={version(name)}" for name in PACKAGES]
    except PackageNotFoundError as error:
        raise ThirdPartyError(f"{error.name} is not installed: pip install 'melt_core[mlc]'") from error


def folder() -> Path:
    """Returns where the libraries are, or would be."""
    path: Path = cache_dir() / "arm64" / "-".join(name.replace("==", "-") for name in wanted())
    return path


def arm64_tvm() -> Path:
    """Returns the folder of the libraries, fetched if need be. Raises ThirdPartyError: pip could not get them."""
    made = folder()
    with locked(made):
        if not made.is_dir():
            say(f"fetching {', '.join(wanted())} for aarch64")
            with tempfile.TemporaryDirectory(dir=made.parent, prefix=".tvm-") as scratch:
                _fetch(Path(scratch, "wheels"), Path(scratch, "made"))
                Path(scratch, "made").replace(made)  # whole or absent, never half
    return made


def _fetch(wheels: Path, target: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--target", str(wheels), "--only-binary", ":all:", "--platform", PLATFORM, *wanted()]
    run(command)
    target.mkdir()
    for name in LIBRARIES:
        shutil.copy2(next(wheels.rglob(name)), target / name)


def main(arguments: list[str]) -> int:
    """Prints the folder's path; with --if-made, fails where it would have to be fetched."""
    if arguments == ["--if-made"] and not folder().is_dir():
        print("arm64_tvm: no TVM for aarch64 here: run `python tools/arm64_tvm.py`", file=sys.stderr)
        return 1
    print(arm64_tvm())
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except ThirdPartyError as error:
        sys.exit(f"arm64_tvm: {error}")
