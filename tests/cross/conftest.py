"""What other machines' programs need to run here: an emulator, an arm64 userland, and the cross builds themselves.

Where something is missing the tests are skipped with the command that brings it; with ``CI=true`` they fail.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fakes.needs import lacking

REPOSITORY = Path(__file__).parents[2]
BUILDS = REPOSITORY / "build/cross"
#: Without pauth-impdef `max` computes pointer authentication in software, slowly.
CPUS = {"max": "max,pauth-impdef=on", "cortex-a76": "cortex-a76", "cortex-a53": "cortex-a53"}
TIMEOUT_S = 300


def built(path: Path, preset: str) -> Path:
    """Returns a file that `make cross` leaves."""
    if not path.exists():
        lacking(f"{path.relative_to(REPOSITORY)} is not built: run `make cross PRESET={preset}`")
    return path


@pytest.fixture(scope="session")
def qemu() -> Callable[[str], list[str]]:
    """The command that runs an arm64 program on a CPU model."""
    program = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    if program is None:
        lacking("no qemu-aarch64: install qemu-user-static")
    return lambda cpu: [program, "-cpu", CPUS[cpu]]


@pytest.fixture(scope="session")
def arm64_root() -> Path:
    """A folder with the C library, Python and NumPy for arm64."""
    command = [sys.executable, str(REPOSITORY / "tools/arm64_root.py"), "--if-made"]
    if os.environ.get("CI") == "true":
        command.pop()
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    if done.returncode != 0:
        lacking(done.stderr.strip().splitlines()[-1])
    return Path(done.stdout.strip())


@dataclass
class Connection:
    """An agent's request loop in a process, as a host sees it."""

    command: list[str]
    work: Path
    environment: dict[str, str] = field(default_factory=dict)

    def __enter__(self) -> Connection:
        """Starts the loop."""
        self.process = subprocess.Popen(
            [*self.command, "--work", str(self.work)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **self.environment},
        )
        return self

    def __exit__(self, *_: object) -> None:
        """Hangs up."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(timeout=TIMEOUT_S)

    def raw(self, line: bytes) -> dict[str, Any]:
        """Sends a line and returns the answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line + b"\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        """Returns a good answer."""
        answer = self.raw(json.dumps({"id": 1, "op": op, **fields}).encode())
        assert answer["ok"], answer
        return answer

    def wait(self, run: str) -> dict[str, Any]:
        """Returns the status of a run that has ended."""
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            status = self.ask("status", run=run)
            if status["state"] not in ("queued", "running"):
                return status
            time.sleep(0.05)
        raise AssertionError(f"run {run} does not end: {status}")


@pytest.fixture(scope="session")
def host_agent() -> Path:
    """This machine's agent, where the installed package has it."""
    import melt_core._core

    path = Path(melt_core._core.__file__).parent / "agents/host/melt-agent"
    assert path.is_file(), f"{path} is missing: the build left it out"
    return path


@pytest.fixture(scope="module")
def model_dir(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work directory with SmolLM2 in it."""
    work = tmp_path_factory.mktemp("device")
    shutil.copyfile(demo, work / "smollm2.gguf")
    return work
