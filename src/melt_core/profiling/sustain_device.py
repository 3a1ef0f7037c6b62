"""A sustained run on another device: blocks of prompts back to back, each a run of the agent and a trace of its own.

The agent loads the model anew for each block, which is a pause of seconds in which the device cools a little; so blocks
are long (about `BLOCK_S`), and the time axis shows the pauses. Stops are looked at between two blocks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from melt_core.devices import Device, GateLimits, connect
from melt_core.profiling.remote import profile_on_device
from melt_core.profiling.sustain import SustainRequest, stop_reason
from melt_core.trace.format import ChunkKind
from melt_core.trace.tail import TraceTail, ns_run
from melt_core.units import NS_PER_S

BLOCK_S: Final = 60.0
_TELEMETRY_S: Final = 1.0
#: A sustained run is to get hot: no gate waits for it to cool.
_LIMITS: Final = GateLimits(most_temperature_c=None, governors=None, wait_s=0.0)


def run_on_device(
    request: SustainRequest,
    device: Device | str,
    *,
    outputs: Callable[[], Path],
    done_ns: int,
    on_event: Callable[[dict[str, Any]], None] | None = None,
    block_s: float = BLOCK_S,
) -> str:
    """Runs blocks until the minutes asked are over; returns why it ended.

    Args:
        request: What to do.
        device: A device, or its name.
        outputs: Gives the file of the next block.
        done_ns: What had been run before.
        on_event: Told of each block, and of what the device tells.
        block_s: About how long a block lasts; the first is one prompt, to see how long that is.

    Raises: as `profile_on_device` does.
    """
    n_prompts = 1
    with contextlib.ExitStack() as stack:
        at = stack.enter_context(connect(device)) if isinstance(device, str) else device
        while True:
            output = outputs()
            block = replace(
                request.profile, output=str(output), repeats=n_prompts, warmup=0, overhead_budget_s=0.0,
                ignore_eos=True,
            )  # fmt: skip
            result = profile_on_device(
                block, at, limits=_LIMITS, telemetry_s=_TELEMETRY_S, on_event=on_event,
                metadata={"sustain": {"minutes": request.minutes}},
            )  # fmt: skip
            ran_ns = ns_run(result.trace.records(ChunkKind.RUNS))
            done_ns += ran_ns
            if on_event is not None:
                of_s = request.duration_ns / NS_PER_S
                on_event({"event": "prompt", "seconds": done_ns / NS_PER_S, "of": of_s})
            reason = stop_reason(request, TraceTail(output).latest())
            if reason is not None:
                return reason
            if done_ns >= request.duration_ns:
                return "time"
            each_ns = max(ran_ns / n_prompts, 1e6)
            n_prompts = max(1, round(min(block_s * NS_PER_S, request.duration_ns - done_ns) / each_ns))
