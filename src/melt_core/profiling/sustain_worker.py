"""The child process of `sustain`: loads once, runs prompts back to back into one trace, and looks at the sensors.

In: a JSON line with the request and the ns run before. Out: ``{"event": "load"}``, ``{"event": "prompt", ...}`` and at
the end ``{"event": "done", "stopped_by": why}`` or ``{"event": "error", ...}``, see `child`.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import Any

from melt_core.errors import InvalidArgumentError
from melt_core.profiling.child import Send, serve
from melt_core.profiling.profiler import Profiler
from melt_core.profiling.sustain import SustainRequest, stop_reason
from melt_core.profiling.worker import load_model, start_profile
from melt_core.runtime.machine import sensors
from melt_core.trace.tail import TraceTail
from melt_core.units import NS_PER_S


def execute(line: str, send: Send) -> dict[str, Any]:
    """Runs until the minutes asked are over, or until a sensor says stop; returns why it ended."""
    asked = json.loads(line)
    request = SustainRequest.from_json(asked["request"])
    _check_sensors(request)
    wanted = request.profile
    with load_model(wanted, send) as llm:
        recording = start_profile(wanted, llm, sustain={"minutes": request.minutes})
        try:
            if wanted.idle_s:
                recording.sample_idle(wanted.idle_s)
            ended = _prompts(request, recording, asked["done_ns"], send)
            if wanted.idle_s and ended == "time":
                recording.sample_idle(wanted.idle_s)
        finally:
            llm.close()
            recording.finish()
    return {"stopped_by": ended}


def _prompts(request: SustainRequest, recording: Profiler, done_ns: int, send: Send) -> str:
    once = replace(request.profile, repeats=1, warmup=0, overhead_budget_s=0.0, idle_s=0.0, marker=False)
    tail = TraceTail(once.output)
    while True:
        recording.run(**once.arguments_for(Profiler.run))
        ran_ns = done_ns + tail.ns_run()
        send("prompt", seconds=ran_ns / NS_PER_S, of=request.duration_ns / NS_PER_S)
        reason = stop_reason(request, tail.latest())
        if reason is not None:
            return reason
        if ran_ns >= request.duration_ns:
            return "time"


def _check_sensors(request: SustainRequest) -> None:
    """Fails before the model is loaded where a stop asks for what no sensor reads."""
    wanted = []
    if request.stop_temperature_c is not None:
        wanted.append(("temperature", request.stop_site))
    if request.stop_charge_ratio is not None:
        wanted.append(("charge_share", None))
    if not wanted:
        return
    found = [tuple(channel.split("/")[:2]) for status in sensors() for channel in status.channels]
    for kind, site in wanted:
        sites = [at for at, what in found if what == kind]
        if not sites:
            raise InvalidArgumentError(f"a stop by {kind}, and no sensor of it is here: `melt doctor` says why")
        if site is not None and site not in sites:
            raise InvalidArgumentError(f"a stop by the {kind} of {site!r}: there are {', '.join(sites)}")


if __name__ == "__main__":
    sys.exit(serve(execute))
