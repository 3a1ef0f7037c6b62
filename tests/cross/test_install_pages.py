"""docs/install_jetson.md, walked under emulation: the arm64 Python's own pip takes the wheel, `melt` works there."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pip

from .conftest import BUILDS, TIMEOUT_S, built


def test_the_jetson_page(qemu: Callable[[str], list[str]], arm64_root: Path, tmp_path: Path) -> None:
    wheels = list((BUILDS / "wheel/dist").glob("*.whl"))
    wheel = built(wheels[0] if wheels else BUILDS / "wheel/dist/melt_core.whl", "wheel")
    # pip is Python alone: ours, run by that interpreter, which decides itself what fits it. NumPy and psutil are there.
    packages = tmp_path / "pip"
    packages.mkdir()
    (packages / "pip").symlink_to(Path(pip.__file__).parent)
    site = tmp_path / "site"

    def python(*arguments: str, paths: list[Path]) -> str:
        environment = {
            "HOME": str(tmp_path),
            "PATH": os.environ["PATH"],
            "PYTHONPATH": ":".join(map(str, paths)),
            "QEMU_LD_PREFIX": str(arm64_root),
        }
        command = [*qemu("max"), str(arm64_root / "usr/bin/python3"), *arguments]
        done = subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
        assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-2000:]
        return done.stdout

    # WHEN the page's commands are run
    install = ["-m", "pip", "install", "--no-index", "--no-deps", "--no-compile", "--target", str(site), str(wheel)]
    python(*install, paths=[packages, arm64_root / "site-packages"])
    paths = [site, arm64_root / "site-packages"]
    version = python("-c", "import melt_core; print(melt_core.__version__)", paths=paths).strip()
    doctor = python(str(site / "bin/melt"), "doctor", paths=paths)
    # THEN it is this package, and it says what can be measured there
    assert version == wheel.name.split("-")[1]
    assert "llama.cpp" in doctor
    assert "armv8.2-a+dotprod" in doctor
