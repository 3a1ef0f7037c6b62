"""Compiled models for the tests of the MLC runtime, made once for all processes of a session by the installed TVM."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fakes.mlc_model import write_mlc_model
from fakes.needs import lacking

WRITER = Path(__file__).parents[1] / "fakes" / "mlc_model.py"
COMPILE_TIMEOUT_S = 240


@pytest.fixture(scope="session")
def mlc_packages() -> None:
    """Skips, or fails in CI, where the extra is not installed."""
    for package in ("tvm", "tvm_ffi", "gguf", "tokenizers"):
        if importlib.util.find_spec(package) is None:
            lacking(f"{package} is not installed: pip install 'melt_core[mlc]'")


@pytest.fixture(scope="session")
def mlc_compiled(mlc_packages: None, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Returns a function from a quantisation (or "opencl") to the model directory; made on first use."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # each process has a folder of its own in there

    def make(kind: str) -> Path:
        folder = base / f"mlc-{kind}"
        with (base / f"mlc-{kind}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                part = base / f"mlc-{kind}.part"
                if kind == "opencl":  # TVM's compiler has no business in the process that tests its runtime
                    command = [sys.executable, str(WRITER), str(part)]
                    subprocess.run(command, timeout=COMPILE_TIMEOUT_S, check=True)
                else:
                    write_mlc_model(part, kind)
                part.replace(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def mlc_plain(mlc_compiled: Callable[[str], Path]) -> Path:
    """The tiny Llama in float32."""
    return mlc_compiled("q0f32")


@pytest.fixture(scope="session")
def mlc_packed(mlc_compiled: Callable[[str], Path]) -> Path:
    """The tiny Llama in q4f32_1."""
    return mlc_compiled("q4f32_1")


@pytest.fixture
def mlc_copy(mlc_packed: Path, tmp_path: Path) -> Path:
    """A copy of the packed model, to be spoilt."""
    folder = tmp_path / "model"
    shutil.copytree(mlc_packed, folder)
    return folder
