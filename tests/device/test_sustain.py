"""A sustained run on a device: blocks of prompts through the real agent, each a trace of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from melt_core.analysis.sustained import sustained
from melt_core.devices import Device
from melt_core.profiling.request import ProfileRequest
from melt_core.profiling.sustain import SustainRequest, open_segments, segments
from melt_core.profiling.sustain_device import run_on_device


def test_blocks_of_prompts_become_one_sustained_run(device: Device, tmp_path: Path) -> None:
    profile = ProfileRequest(
        model="layers=2,op_ns=300000,clock=host", output="", runtime="synthetic", prompt="Hello", max_tokens=40,
        levels=("tokens",), n_threads=1,
    )  # fmt: skip
    events: list[dict[str, Any]] = []
    reason = run_on_device(
        SustainRequest(profile, minutes=1.0 / 60),
        device,
        outputs=lambda: tmp_path / f"segment-{len(segments(tmp_path)):03d}.melt",
        done_ns=0,
        on_event=events.append,
        block_s=0.5,
    )
    assert reason == "time"
    traces = open_segments(tmp_path)
    assert len(traces) >= 2
    assert len(traces[0].runs) == 1
    assert len(traces[1].runs) >= 2, "a block is as long as was asked, once it is known how long a prompt takes"
    found = sustained(traces)
    assert found.n_segments == len(traces)
    assert found.n_tokens == 39 * sum(len(trace.runs) for trace in traces)
    assert [event["event"] for event in events].count("prompt") == len(traces)
