"""Level memory on real models: are the runtime's buffers right to the byte, and is every megabyte accounted for?"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

import melt_core as melt
from melt_core.trace.format import ChunkKind, MemoryCategory, MemoryEvent

#: What llama.cpp itself states for SmolLM2-135M Q4_1 at a context of 512 with one output.
DEMO_BYTES = {"weights": 96_576_768, "output": 196_608, "kv": 11_796_480, "compute": 14_692_384}


@pytest.fixture(scope="module")
def trace(demo: Path) -> melt.Trace:
    with melt.load(demo, n_threads=1, n_ctx=512, repack=False) as llm:
        profiler = melt.profile(llm, levels=("tokens", "memory"))
        profiler.run("Hello", max_tokens=4, warmup=0, repeats=2)
    with profiler:
        pass  # closed after the model, so that the releases are in it
    return profiler.trace


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
