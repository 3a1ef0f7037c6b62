"""The source archive builds with the system's CMake and Ninja, as it has to in Termux, where PyPI has neither."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

from .conftest import REPOSITORY, TIMEOUT_S

HOOKS = """
import importlib.util, os, sys
from scikit_build_core.build import build_wheel, get_requires_for_build_wheel
found = importlib.util.find_spec
# PyPI's cmake and ninja lie in this environment; in Termux there are none.
importlib.util.find_spec = lambda name, *rest: None if name in ("cmake", "ninja") else found(name, *rest)
os.chdir(sys.argv[1])
required = [name.split(">")[0].strip() for name in get_requires_for_build_wheel()]
assert not {"cmake", "ninja"} & set(required), required
# Without llama.cpp, to be quick: what it adds is fetched, not in the archive. The build folder lies in the source tree:
# the compiler's cache meets the same relative paths each time.
build_wheel(sys.argv[2], {"cmake.define.MELT_WITH_LLAMA_CPP": "OFF", "build-dir": "build/py"})
"""


def system_tools(folder: Path) -> Path:
    """Returns a folder with cmake and ninja as a system has them, outside of any Python environment."""
    tools = folder / "bin"
    tools.mkdir()
    for name in ("cmake", "ninja"):
        program = shutil.which(name)
        assert program, f"no {name} on the path: run `make setup`"
        (tools / name).write_text(f'#!/bin/sh\nexec "{program}" "$@"\n')
        (tools / name).chmod(0o755)
    return tools


def test_cmake_and_ninja_are_no_build_requirements() -> None:
    text = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    (line,) = [line for line in text.split("[project]")[0].splitlines() if line.startswith("requires = ")]
    assert "scikit-build-core" in line
    assert "cmake" not in line
    assert "ninja" not in line


def test_sdist_builds_a_wheel_with_module_and_agent(tmp_path: Path) -> None:
    make = "import sys; from scikit_build_core.build import build_sdist; build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", make, str(tmp_path)], cwd=REPOSITORY, check=True, timeout=TIMEOUT_S)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    assert not (source / "build").exists()
    environment = {**os.environ, "PATH": f"{system_tools(tmp_path)}:{os.environ['PATH']}"}
    command = [sys.executable, "-c", HOOKS, str(source), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=2 * TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as contents:
        names = contents.namelist()
    assert any(name.startswith("melt_core/_core.") for name in names)
    assert "melt_core/agents/host/melt-agent" in names
