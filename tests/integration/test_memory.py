"""Level memory on real models: are the runtime's buffers right to the byte, and is every megabyte accounted for?"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

import melt_core as melt
from fakes.tiny_models import TensorType, write_model
from melt_core.analysis.memory import memory_of
from melt_core.trace.format import ChunkKind, MemoryCategory, MemoryEvent

from .conftest import TIMEOUT_S, Outcome

#: What llama.cpp itself states for SmolLM2-135M Q4_1 at a context of 512 with one output.
DEMO_BYTES = {"weights": 96_576_768, "output": 196_608, "kv": 11_796_480, "compute": 14_692_384}


@pytest.fixture(scope="module")
def trace(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> melt.Trace:
    # In a process of its own, as `melt profile` does: memory that this one has freed before would be in the account.
    request = melt.ProfileRequest(
        model=str(demo),
        output=str(tmp_path_factory.mktemp("memory") / "t.melt"),
        prompt="Hello",
        max_tokens=4,
        warmup=0,
        repeats=2,
        levels=("tokens", "memory"),
        n_ctx=512,
        n_threads=1,
        repack=False,
    )
    return melt.profile_in_child(request).trace


def test_tracked_buffers_equal_the_runtimes_own_figures(trace: melt.Trace) -> None:
    rows = trace.records(ChunkKind.ALLOCATIONS)
    came = rows[(rows["event"] == MemoryEvent.ALLOCATED) | (rows["event"] == MemoryEvent.MAPPED)]
    assert {MemoryCategory(row["category"]).name.lower(): row["bytes"] for row in came} == DEMO_BYTES
    assert {bytes(row["buffer"]) for row in came} == {b"CPU", b"CPU_Mapped"}


def test_everything_allocated_is_released_at_unload(trace: melt.Trace) -> None:
    live: Counter[tuple[int, int]] = Counter()
    for row in trace.records(ChunkKind.ALLOCATIONS):
        came = row["event"] in (MemoryEvent.ALLOCATED, MemoryEvent.MAPPED)
        live[int(row["buffer_id"]), int(row["category"])] += int(row["bytes"]) * (1 if came else -1)
    assert len(live) == len(DEMO_BYTES)
    assert set(live.values()) == {0}


def test_every_megabyte_is_accounted_for(trace: melt.Trace) -> None:
    account = memory_of(trace)
    rows = {row.category: row for row in account.rows}
    assert account.unaccounted_ratio is not None
    assert abs(account.unaccounted_ratio) <= 0.05
    for category, size in DEMO_BYTES.items():
        assert rows[category].bytes == rows[category].peak_bytes == size
    resident = {name: rows[name].resident_bytes for name in ("weights", "kv", "compute", "output")}
    assert all(size is not None and 0 < size <= DEMO_BYTES[name] for name, size in resident.items())
    process = rows["process"]
    assert process.resident_bytes is not None
    assert process.peak_bytes is not None
    assert process.resident_bytes <= process.peak_bytes


LONG_LIVED = """
import sys
import numpy as np
import melt_core as melt
# A process that has held 200 MB and given it back: small blocks that malloc keeps, because the last is still in use,
# and large ones that it unmaps.
blocks = [bytearray(b"1" * 60_000) for _ in range(2_000)]
last = blocks[-1]
del blocks
large = [np.ones(3_000_000) for _ in range(4)]
del large
for path in sys.argv[2:]:
    with melt.load(sys.argv[1], n_ctx=512, n_threads=1) as llm:
        with melt.profile(llm, levels=("tokens", "ops", "memory"), output=path) as profiler:
            profiler.run("Hello", max_tokens=4, warmup=0, repeats=2, overhead_budget_s=0)
"""


def test_a_process_that_freed_memory_before_the_load_is_accounted_for(demo: Path, tmp_path: Path) -> None:
    paths = [tmp_path / "first.melt", tmp_path / "second.melt"]
    command = [sys.executable, "-c", LONG_LIVED, str(demo), *map(str, paths)]
    subprocess.run(command, check=True, timeout=TIMEOUT_S)
    for path in paths:
        account = memory_of(melt.Trace.open(path))
        rows = {row.category: row.resident_bytes for row in account.rows}
        assert account.unaccounted_ratio is not None
        assert abs(account.unaccounted_ratio) <= 0.05
        assert (rows["program"] or 0) > 100e6  # the blocks that malloc kept, but for what became buffers
        assert (rows["heap"] or 0) < 60e6


def test_the_sampler_reports_on_itself(trace: melt.Trace) -> None:
    sensors = trace.metadata["sensors"]
    assert sensors["sampler"]["rate_hz"] == 100
    assert sensors["sampler"]["n_dropped"] == 0
    assert sensors["sampler"]["cpu_seconds"] > 0
    assert all(reason for reason in sensors["missing"].values())
    kinds = {f"{row.site}/{row.kind}" for row in trace.samples} | set(sensors["missing"])
    assert {"process/rss", "process/minor_faults", "process/pss", "model_file/page_cache", "machine/steal"} <= kinds


def test_read_weights_and_the_command(demo: Path, cli: Callable[..., Outcome], tmp_path: Path) -> None:
    done = cli(
        "profile", demo, "--prompt-tokens", 8, "--max-tokens", 2, "--ctx", 512, "--threads", 1, "--repeats", 1,
        "--warmup", 0, "--levels", "tokens,memory", "--no-mmap", "--no-repack", "-o", tmp_path / "t.melt",
    )  # fmt: skip
    assert done.code == 0, done.err
    rows = json.loads(cli("memory", tmp_path / "t.melt", "--json").out)
    found = {row["category"]: row for row in rows}
    assert found["weights"]["bytes"] == DEMO_BYTES["weights"]
    assert found["weights"]["resident_bytes"] > 0.99 * DEMO_BYTES["weights"]
    assert abs(found["unaccounted"]["resident_bytes"]) <= 0.05 * found["process"]["resident_bytes"]


def categories(model: Path, *, repack: bool) -> dict[str, str]:
    """Returns the buffer type of each category that came; fails unless as many buffers went."""
    with melt.load(model, n_threads=1, n_ctx=64, repack=repack) as llm:
        profiler = melt.profile(llm, levels=("tokens", "memory"))
        profiler.run([1, 2, 3], max_tokens=2, warmup=0)
    with profiler:
        pass
    rows = profiler.trace.allocations.to_dicts()
    came = {row["category"]: row["buffer"] for row in rows if row["event"] in ("allocated", "mapped")}
    assert len(rows) == 2 * len(came)
    return came


def test_repacked_copies_and_recurrent_states_have_their_category(vocabularies: Path, tmp_path: Path) -> None:
    usual = {"weights": "CPU_Mapped", "kv": "CPU", "compute": "CPU", "output": "CPU"}
    llama = write_model(tmp_path / "llama.gguf", weight_type=TensorType.Q4_0)
    assert categories(llama, repack=False) == usual
    repacked = categories(llama, repack=True)
    assert usual.items() <= repacked.items()
    assert repacked.get("repack", "CPU_REPACK") in ("CPU_REPACK", "AMX")  # none where this CPU has no such kernels
    assert categories(write_model(tmp_path / "mamba.gguf", "mamba"), repack=False) == usual
