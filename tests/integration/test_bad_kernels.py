"""Kernels that lack something level memory reads: each channel is missing with its reason, and nothing reads as 0."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import melt_core as melt
from fakes.needs import lacking
from melt_core.analysis.memory import MemoryAccount, memory_of
from melt_core.analysis.samples import series_of

from .conftest import TIMEOUT_S, Outcome

OF_PROCESS = ("statm", "status", "smaps", "smaps_rollup", "pagemap", "maps", "clear_refs", "cgroup")
FILES = ("stat", "meminfo", "pressure/cpu", "pressure/memory", *(f"self/{name}" for name in OF_PROCESS))


def profiled(model: Path, root: Path, monkeypatch: pytest.MonkeyPatch, without: str) -> melt.Trace:
    """Profiles with a /proc that is the real one but for one file."""
    for name in FILES:
        if name.startswith(without):
            continue
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(Path("/proc") / name)
    monkeypatch.setenv("MELT_PROCFS_ROOT", str(root))
    with melt.load(model, n_threads=1, n_ctx=64) as llm, melt.profile(llm, levels=("tokens", "memory")) as profiler:
        profiler.run([1, 2, 3], max_tokens=2, warmup=0, ignore_eos=True)
    return profiler.trace


def check_missing(trace: melt.Trace, channel: str) -> MemoryAccount:
    account = memory_of(trace)
    assert account.missing[channel]
    series = series_of(trace).get(channel)
    assert series is None or not len(series.values)
    can_be_none = ("unaccounted", "model_file", "heap")  # a process that lives on gives out again what it had
    assert all(row.resident_bytes != 0.0 for row in account.rows if row.category not in can_be_none)
    return account


@pytest.mark.parametrize(
    ("without", "channels"),
    [
        ("pressure/cpu", ["machine/pressure_cpu"]),
        ("pressure", ["machine/pressure_cpu", "machine/pressure_memory"]),
        ("stat", ["machine/steal"]),
        ("self/smaps_rollup", ["process/pss", "process/swap"]),
        ("self/clear_refs", ["process/peak_rss"]),
        ("self/maps", ["heap/resident", "program/resident"]),
    ],
)
def test_a_file_that_the_kernel_lacks(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without: str, channels: list[str]
) -> None:
    trace = profiled(tiny_llama, tmp_path, monkeypatch, without)
    for channel in channels:
        account = check_missing(trace, channel)
        assert without in account.missing[channel] or "clear_refs" in account.missing[channel]
    assert "process/rss" not in account.missing


def test_without_the_page_table_residency_is_not_known(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = memory_of(profiled(tiny_llama, tmp_path, monkeypatch, "self/pagemap"))
    rows = {row.category: row for row in account.rows}
    assert {"buffers/kv/resident", "heap/resident", "program/resident"} <= account.missing.keys()
    assert all("pagemap: No such file" in account.missing[f"buffers/{name}/resident"] for name in ("kv", "weights"))
    assert (rows["kv"].resident_bytes, rows["unaccounted"].resident_bytes) == (None, None)
    assert rows["kv"].bytes
    assert rows["process"].resident_bytes
    assert account.unaccounted_ratio is None


def test_without_statm_the_process_is_not_known(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = check_missing(profiled(tiny_llama, tmp_path, monkeypatch, "self/statm"), "process/rss")
    rows = {row.category: row for row in account.rows}
    assert (rows["process"].resident_bytes, rows["unaccounted"].resident_bytes) == (None, None)
    assert "statm" in account.missing["program/resident"]
    assert "program" not in rows


NO_MINCORE = """
import ctypes, errno, platform, sys
number = {"x86_64": 27, "aarch64": 232}[platform.machine()]
class Instruction(ctypes.Structure):
    _fields_ = [("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint)]
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.POINTER(Instruction))]
# load the call's number; this one fails with ENOSYS, others are let through (linux/seccomp.h, linux/filter.h)
code = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x00050000 | errno.ENOSYS), (0x06, 0, 0, 0x7FFF0000)]
program = Program(len(code), (Instruction * len(code))(*(Instruction(*one) for one in code)))
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.byref(program), 0, 0):
    sys.exit(77)
import melt_core as melt
from melt_core.analysis.memory import memory_of
with melt.load(sys.argv[1], n_threads=1, n_ctx=64) as llm:
    with melt.profile(llm, levels=("tokens", "memory"), output=sys.argv[2]) as profiler:
        profiler.run([1, 2, 3], max_tokens=2, warmup=0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the filter of system calls is Linux's")
def test_a_kernel_without_mincore(tiny_llama: Path, tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    path = tmp_path / "t.melt"
    command = [sys.executable, "-c", NO_MINCORE, str(tiny_llama), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    if done.returncode == 77:
        lacking("this kernel lets no process filter its system calls")
    assert done.returncode == 0, done.stderr
    trace = melt.Trace.open(path)
    account = check_missing(trace, "model_file/page_cache")
    assert "mincore: Function not implemented" in account.missing["model_file/page_cache"]
    assert trace.metadata["config"]["page_cache_ratio_before_load"] is None
    shown = cli("memory", path)
    assert "missing: model_file/page_cache: mincore: Function not implemented" in shown.out
    rows = json.loads(cli("memory", path, "--json").out)
    assert {"unaccounted", "process"} <= {row["category"] for row in rows}
