"""However long a prompt, a context or a run is: every op of every graph is in the trace, while the log has room."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import melt_core as melt


def run(model: Path, n_prompt: int, n_output: int, **options: Any) -> dict[str, Any]:
    with melt.load(model, n_threads=1, **options) as llm, melt.profile(llm) as profiler:
        ids = [1 + i % 200 for i in range(n_prompt)]
        profiler.run(ids, max_tokens=n_output, warmup=0, ignore_eos=True, overhead_budget_s=0)
    assert profiler.trace.warnings == []
    (row,) = profiler.trace.runs.to_dicts()
    assert row["stop_reason"] == "limit"
    assert row["n_dropped"] == 0
    assert row["n_groups"] == row["n_records"] == profiler.trace.graphs["n_groups"].sum()
    assert row["n_graphs"] == len(profiler.trace.graphs)
    return row


@pytest.mark.parametrize(
    ("n_batch", "n_ubatch", "n_graphs"),
    [
        (512, 16, 63),  # each graph of a prefill is a topology of its own
        (16, 512, 63),
        (64, 24, 15 * 3 + 2),  # three graphs in a batch: 24, 24, 16; and 24, 16 in the rest
        (2048, 512, 2),
    ],
)
def test_a_prompt_of_many_graphs(tiny_llama: Path, n_batch: int, n_ubatch: int, n_graphs: int) -> None:
    row = run(tiny_llama, 1000, 1, n_ctx=1024, n_batch=n_batch, n_ubatch=n_ubatch)
    assert row["n_graphs"] == n_graphs


def test_a_long_context(tiny_llama: Path) -> None:
    # Each 256 positions are a topology of their own.
    row = run(tiny_llama, 4, 2600, n_ctx=3072)
    assert row["n_graphs"] == 2600


def test_what_finds_no_room_is_counted_whole(tiny_llama: Path) -> None:
    with melt.load(tiny_llama, n_threads=1) as llm:
        traces = []
        for log_bytes in (1 << 20, 1 << 12):
            with melt.profile(llm, log_bytes=log_bytes) as profiler:
                profiler.run([1, 2, 3], max_tokens=20, warmup=0, ignore_eos=True, overhead_budget_s=0)
            traces.append(profiler.trace.runs.to_dicts()[0])
    whole, cut = traces
    assert (whole["n_dropped"], whole["n_graphs"]) == (0, 20)
    assert cut["n_dropped"] > 0
    assert cut["n_records"] + cut["n_dropped"] == whole["n_records"]
    assert (cut["n_graphs"], cut["n_groups"]) == (whole["n_graphs"], whole["n_groups"])
