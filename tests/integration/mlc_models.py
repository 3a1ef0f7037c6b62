"""Compiled models for the tests of the MLC runtime, made once in a session by the TVM that is installed."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

WRITER = Path(__file__).parents[1] / "fakes" / "mlc_model.py"
COMPILE_TIMEOUT_S = 240


@pytest.fixture(scope="session")
def mlc_compiled(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Returns a function from a quantisation (or "opencl") to the model directory; made on first use."""
    for package in ("tvm", "tvm_ffi", "tokenizers"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install 'melt_core[mlc]'")
    base = tmp_path_factory.mktemp("mlc")

    def make(kind: str) -> Path:
        folder = base / f"tiny-{kind}"
        if not folder.exists():
            command = [sys.executable, str(WRITER), str(folder), kind]
            done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_TIMEOUT_S, check=False)
            assert done.returncode == 0, done.stderr
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
