"""arm64 programs of `make cross` under emulation: the core's tests, the agent's measuring, the wheel in Python.

One thread: ggml's spinning barriers make several crawl under emulation.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import melt_core as melt

from .conftest import BUILDS, TIMEOUT_S, Connection, built

# The third token of a prompt without such a clear answer is a near tie, and kernels round differently.
PROMPT = "The capital of France is"
N_OUTPUT = 8
REQUEST: dict[str, Any] = {
    "model": "smollm2.gguf",
    "prompt": PROMPT,
    "max_tokens": N_OUTPUT,
    "n_threads": 1,
    "n_ctx": 256,
    "repeats": 1,
    "warmup": 0,
    "levels": ["tokens", "ops", "memory"],
    "overhead_budget_s": 0,
}
Qemu = Callable[[str], list[str]]


@pytest.mark.parametrize(
    ("preset", "cpu"), [("jetson", "max"), ("jetson", "cortex-a76"), ("linux-arm64-gcc", "cortex-a53")]
)
def test_core_tests(preset: str, cpu: str, qemu: Qemu, arm64_root: Path) -> None:
    """All of ctest's but for a case that asks the kernel about our pages: it answers about the emulator's."""
    program = built(BUILDS / preset / "melt_tests", preset)
    done = subprocess.run(
        [*qemu(cpu), str(program), "-tce=the account finds what is resident of a buffer*"],
        env={**os.environ, "QEMU_LD_PREFIX": str(arm64_root), "MELT_TEST_CPU": cpu},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-500:]
    counts = re.search(r"test cases:\s+(\d+) \|\s+(\d+) passed", done.stdout)
    assert counts
    assert int(counts[1]) == int(counts[2]) > 100


@pytest.mark.parametrize("preset", ["jetson", "android-static"])
def test_an_old_core_is_told_what_it_lacks(preset: str, qemu: Qemu, arm64_root: Path) -> None:
    agent = built(BUILDS / preset / "melt-agent", preset)
    done = subprocess.run(
        [*qemu("cortex-a53"), str(agent), "--work", "/nonexistent/not-made"],
        env={**os.environ, "QEMU_LD_PREFIX": str(arm64_root)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 1, done
    (line,) = done.stdout.splitlines()
    error = json.loads(line)["error"]
    assert "dotprod" in error["missing_features"]
    assert error["kind"] == "RuntimeFailedError"
    assert "dotprod" in error["message"]


@pytest.fixture(scope="module")
def host_ids(model_dir: Path) -> list[int]:
    """What this machine generates."""
    with (
        melt.load(model_dir / "smollm2.gguf", n_threads=1, n_ctx=256) as llm,
        melt.profile(llm, levels=["tokens"]) as profiler,
    ):
        completion = profiler.run(PROMPT, max_tokens=N_OUTPUT, warmup=0, overhead_budget_s=0)
    return list(completion.token_ids)


def check_trace(trace: melt.Trace, ids: list[int]) -> None:
    """What holds of a trace, wherever it was made: whole, conserving, and with these tokens."""
    assert trace.warnings == []
    assert trace.tokens["token_id"].tolist()[:N_OUTPUT] == ids
    conserved = trace.summary().conservation
    assert conserved.n_graphs == N_OUTPUT
    assert conserved.n_excluded == 0
    assert conserved.min is not None
    assert conserved.min >= 0.99
    n_host_ops = 1 + N_OUTPUT  # tokenising, and a draw for each token
    assert len(trace.ops) == int(trace.runs["n_records"].sum()) + n_host_ops
    assert set(trace.metadata) >= {"model", "runtime", "device", "build", "config", "request", "clock"}


@pytest.mark.parametrize(("preset", "cpu"), [("android-static", "max"), ("jetson", "cortex-a76"), ("host", "")])
def test_agent_measures_as_the_host_does(
    preset: str,
    cpu: str,
    qemu: Qemu,
    arm64_root: Path,
    host_agent: Path,
    model_dir: Path,
    host_ids: list[int],
) -> None:
    """The same conformance for the host's agent and for those of devices."""
    agent = host_agent if preset == "host" else built(BUILDS / preset / "melt-agent", preset)
    command = [str(agent)] if preset == "host" else [*qemu(cpu), str(agent)]
    with Connection(command, model_dir, {"QEMU_LD_PREFIX": str(arm64_root)}) as device:
        hello = device.ask("hello", protocol=1, host="test")
        assert hello["missing_features"] == []
        assert hello["arch"] == (os.uname().machine if preset == "host" else "aarch64")
        device.ask("start", run=f"r-{preset}", request=REQUEST)
        status = device.wait(f"r-{preset}")
    assert status["state"] == "done", status
    assert status["output_ids"] == host_ids
    trace = melt.Trace.open(model_dir / f"runs/r-{preset}/trace.melt")
    check_trace(trace, host_ids)
    assert trace.metadata["model_file"]["file_bytes"] == (model_dir / "smollm2.gguf").stat().st_size
    assert trace.metadata["agent"]["trace_zero_steady_ns"] == status["trace_zero_ns"]
    assert trace.metadata["build"]["libc"] == {"android-static": "musl"}.get(preset, "glibc")


SCRIPT = """
import json, platform, sys
import melt_core as melt
with melt.load(sys.argv[1], n_threads=1, n_ctx=256) as llm:
    with melt.profile(llm, levels=("tokens", "ops", "memory"), output=sys.argv[2]) as profiler:
        done = profiler.run(sys.argv[3], max_tokens=int(sys.argv[4]), warmup=0, overhead_budget_s=0)
print(json.dumps({"machine": platform.machine(), "ids": done.token_ids, "n_ops": len(profiler.trace.ops)}))
"""


def test_wheel_imports_and_profiles(
    qemu: Qemu, arm64_root: Path, model_dir: Path, host_ids: list[int], tmp_path: Path
) -> None:
    """`pip install` of the cross-built wheel into an arm64 Python, and a profile made by it."""
    wheels = list((BUILDS / "wheel/dist").glob("*.whl"))
    built(wheels[0] if wheels else BUILDS / "wheel/dist/melt_core.whl", "wheel")
    tag = re.search(r"-(cp3\d+)-cp3\d+-manylinux_2_(\d+)_aarch64", wheels[0].name)
    assert tag, wheels[0].name
    assert int(tag[2]) <= 28
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:"]
    pip += ["--target", str(tmp_path / "site"), "--implementation", "cp", "--python-version", tag[1][2:]]
    pip += ["--platform", f"manylinux_2_{tag[2]}_aarch64", str(wheels[0])]
    subprocess.run(pip, check=True, timeout=TIMEOUT_S)
    trace = tmp_path / "t.melt"
    arguments = [str(model_dir / "smollm2.gguf"), str(trace), PROMPT, str(N_OUTPUT)]
    done = subprocess.run(
        [*qemu("max"), str(arm64_root / "usr/bin/python3"), "-c", SCRIPT, *arguments],
        env={
            "QEMU_LD_PREFIX": str(arm64_root),
            "PYTHONPATH": f"{tmp_path / 'site'}:{arm64_root / 'site-packages'}",
            "PATH": os.environ["PATH"],
        },
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout)
    assert said["machine"] == "aarch64"
    assert said["ids"] == host_ids
    check_trace(melt.Trace.open(trace), host_ids)
