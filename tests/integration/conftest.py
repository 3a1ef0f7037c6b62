"""The command line, as a function and as a process; the demo model, loaded."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import melt_core as melt
from melt_core.cli.main import main

from .mlc_models import mlc_compiled, mlc_copy, mlc_packages, mlc_packed, mlc_plain  # noqa: F401 - fixtures

MELT = Path(sys.executable).with_name("melt")
#: No child of a test may outlive this, on the slowest machine.
TIMEOUT_S = 120
ONE_THREAD = ("--threads", 1)
#: As little as `melt profile` can do.
SHORT = ("--prompt-tokens", 4, "--max-tokens", 2, "--repeats", 1, "--warmup", 0, "--overhead-seconds", 0, *ONE_THREAD)


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The one line on standard error; fails if it is not one line, or a traceback."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("melt: error: "), self.err
        return lines[0]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Runs a ``melt`` command in this process; models are loaded in a child all the same."""

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return Outcome(code, *capsys.readouterr())

    return run


@pytest.fixture
def cli_process() -> Callable[..., Outcome]:
    """Runs a ``melt`` command in a process of its own."""

    def run(*arguments: object) -> Outcome:
        command = [str(MELT), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        return Outcome(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def start_python() -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Starts a Python script with pipes; whatever still runs at the end of the test is killed."""
    children: list[subprocess.Popen[str]] = []

    def start(script: str, *arguments: object) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [sys.executable, "-c", script, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        )
        children.append(child)
        return child

    yield start
    for child in children:
        if child.poll() is None:
            child.kill()
        child.communicate()


@pytest.fixture(scope="module")
def llm(demo: Path) -> Iterator[melt.LLM]:
    """The demo model on one thread: on a loaded machine a second one waits in barriers most of the time."""
    with melt.load(demo, n_threads=1, n_ctx=512) as loaded:
        yield loaded
