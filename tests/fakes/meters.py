"""Traces with runs at known times, and what a meter with a clock of its own would have read meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fakes.simulated_device import Run, SimulatedDevice
from fakes.trace_builder import METADATA, TraceBuilder, rows_of
from melt_core.meters.recording import Recording
from melt_core.trace import Trace
from melt_core.trace.format import NONE, RUN_WARMUP, ChunkKind, Phase, StopReason

START_WALL_NS = 1_790_000_000_000_000_000
#: Begin and end in s.
Pulse = tuple[float, float]


def irregular_runs(*, minutes: float, seed: int, idle_s: tuple[float, float] = (0.5, 4.0)) -> list[Run]:
    """Returns runs of different lengths with pauses between, as prompts of different lengths make them."""
    random = np.random.default_rng(seed)
    runs, now = [], 3.0
    while now < minutes * 60 - 12:
        run = Run(now, float(random.uniform(0.2, 1.0)), float(random.uniform(1.0, 8.0)))
        runs.append(run)
        now = run.end_s + float(random.uniform(*idle_s))
    return runs


def device_of(runs: list[Run], *, ripple: float = 0.3) -> SimulatedDevice:
    return SimulatedDevice.of_runs(idle_w=2.0, prefill_w=9.0, decode_w=6.0, runs=runs, ripple=ripple)


def trace_of(
    runs: list[Run], *, start_wall_ns: int = START_WALL_NS, pulses: Sequence[Pulse] = (), idle: Sequence[Pulse] = ()
) -> Trace:
    """Returns a trace with these runs, without ops or samples; beside them marker pulses and idle windows."""
    rows, tokens = [], []
    phases: list[dict[str, Any]] = [
        {"run": NONE, "phase": kind, "start_ns": round(start * 1e9), "duration_ns": round((end - start) * 1e9)}
        for kind, spans in ((Phase.MARKER, pulses), (Phase.IDLE, idle))
        for start, end in spans
    ]
    for number, run in enumerate(runs):
        edges = [round(t * 1e9) for t in (run.start_s, run.start_s + run.prefill_s, run.end_s)]
        for phase, start, end in ((Phase.PREFILL, *edges[:2]), (Phase.DECODE, *edges[1:])):
            phases.append({"run": number, "phase": phase, "start_ns": start, "duration_ns": end - start})
        tokens.append({"run": number, "phase": Phase.PREFILL, "start_ns": edges[0], "duration_ns": edges[1] - edges[0]})
        rows.append(
            {
                "run": number,
                "flags": RUN_WARMUP if number == 0 else 0,
                "stop_reason": StopReason.LIMIT,
                "n_output": 1,
                "start_ns": edges[0],
                "duration_ns": edges[2] - edges[0],
            }
        )
    builder = TraceBuilder(start_wall_ns=start_wall_ns)
    builder.metadata(METADATA)
    for kind, made in ((ChunkKind.PHASES, phases), (ChunkKind.RUNS, rows), (ChunkKind.TOKENS, tokens)):
        builder.records(kind, rows_of(kind, made))
    return Trace.from_bytes(builder.finish())


def meter_ns(trace_s: NDArray[np.float64] | float, *, offset_s: float, drift_ppm: float) -> NDArray[np.float64]:
    """Returns the meter's time of a trace time: the device's clock runs `drift_ppm` faster than the meter's."""
    return (np.asarray(trace_s) - offset_s) / (1 + drift_ppm * 1e-6) * 1e9


def metered(
    device: SimulatedDevice,
    *,
    offset_s: float,
    drift_ppm: float,
    minutes: float,
    rate_hz: float,
    noise_w: float = 0.2,
    seed: int = 0,
    start_wall_ns: int | None = None,
) -> Recording:
    """Returns what a meter reads whose time 0 is `offset_s` of the trace, with noise, a ripple and missing readings."""
    random = np.random.default_rng(seed)
    n = int(minutes * 60 * rate_hz)
    time_ns = np.round(np.arange(n) / rate_hz * 1e9 + random.uniform(0, 0.2, n) / rate_hz * 1e9).astype(np.int64)
    kept = random.random(n) > 0.002
    time_ns = time_ns[kept]
    trace_s = offset_s + time_ns / 1e9 * (1 + drift_ppm * 1e-6)
    power = device.power_w("board", trace_s) + random.normal(0, noise_w, len(time_ns))
    return Recording(time_ns, {"power": power}, "simulated meter", start_wall_ns)
