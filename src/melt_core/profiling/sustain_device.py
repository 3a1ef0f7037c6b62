"""A sustained run on another device: blocks of prompts back to back, each a run of the agent and a trace of its own.

The agent loads the model anew for each block, which is a pause of seconds in which the device cools a little; so blocks
are long (about `BLOCK_S`), and the time axis shows the pauses. Stops are looked at between two blocks.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from melt_core.devices import Device, GateLimits, connect
from melt_core.profiling.remote import profile_on_device
from melt_core.profiling.sustain import SustainRequest, seconds_run, stop_reason
from melt_core.trace.tail import TraceTail

BLOCK_S: Final = 60.0
_TELEMETRY_S: Final = 1.0
#: A sustained run is to get hot: no gate waits for it to cool.
_LIMITS: Final = GateLimits(most_temperature_c=None, governors=None, wait_s=0.0)


def run_on_device(
    request: SustainRequest,
    device: Device | str,
    *,
    outputs: Callable[[], Path],
    done_s: float,
    left_s: float,
    on_event: Callable[[dict[str, Any]], None] | None = None,
    block_s: float = BLOCK_S,
) -> str:
    """Runs blocks for the seconds that are left; returns why it ended.

    Args:
        request: What to do.
        device: A device, or its name.
        outputs: Gives the file of the next block.
        done_s: What had been run before.
        left_s: What is left.
        on_event: Told of each block, and of what the device tells.
        block_s: About how long a block lasts; the first is one prompt, to see how long that is.

    Raises: as `profile_on_device` does.
    """
    begin, n_prompts = time.monotonic(), 1
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
            ran_s = seconds_run(result.trace)
            elapsed_s = time.monotonic() - begin
            if on_event is not None:
                on_event({"event": "prompt", "seconds": done_s + elapsed_s, "of": done_s + left_s})
            reason = stop_reason(request, TraceTail(output).latest())
            if reason is not None:
                return reason
            if elapsed_s >= left_s:
                return "time"
            each_s = max(ran_s / n_prompts, 1e-3)
            n_prompts = max(1, round(min(block_s, left_s - elapsed_s) / each_s))
