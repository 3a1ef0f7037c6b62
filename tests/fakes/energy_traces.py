"""Traces of runs on a simulated device whose power is known at every time: readings in, truth beside them.

made = EnergyTrace.of(DEVICE, RUNS, [sample(DEVICE, "board", "power", rate_hz=100, end_s=20)])
energy_of(made.trace).total.gross_j     # against made.truth_j("board", "total")
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fakes.simulated_device import Run, SampledSeries, SimulatedDevice, sample_records
from fakes.trace_builder import METADATA, TraceBuilder, rows_of
from melt_core.trace import Trace
from melt_core.trace.format import NONE, ChunkKind, Phase, StopReason

N_PROMPT, N_OUTPUT = 64, 32
IDLE_S = 3.0


def ns(seconds: float) -> int:
    return round(seconds * 1e9)


def make_runs(n: int, *, prefill_s: float = 0.8, decode_s: float = 3.0, pause_s: float = 0.05) -> list[Run]:
    """Runs one after the other, behind an idle window."""
    length_s = prefill_s + decode_s + pause_s
    return [Run(IDLE_S + 0.013 + at * length_s, prefill_s, decode_s) for at in range(n)]


@dataclass(frozen=True)
class EnergyTrace:
    """A trace and what is true of it."""

    trace: Trace
    device: SimulatedDevice
    runs: list[Run]
    data: bytes

    @staticmethod
    def of(
        device: SimulatedDevice,
        runs: Sequence[Run],
        series: Sequence[SampledSeries],
        *,
        idle: bool = True,
        metadata: dict[str, Any] | None = None,
        units: dict[str, str] | None = None,
    ) -> EnergyTrace:
        """Builds the trace: idle before and after, then the runs with their phases and tokens."""
        builder = TraceBuilder()
        builder.metadata({**METADATA, "warnings": [], **(metadata or {})})
        rows: dict[ChunkKind, list[dict[str, Any]]] = {kind: [] for kind in ChunkKind}

        def phase(run: int, kind: Phase, start_s: float, length_s: float) -> None:
            rows[ChunkKind.PHASES].append(
                {"run": run, "phase": kind, "start_ns": ns(start_s), "duration_ns": ns(length_s)}
            )

        if idle:
            phase(NONE, Phase.IDLE, 0.0, IDLE_S)
        for number, run in enumerate(runs):
            phase(number, Phase.PREFILL, run.start_s, run.prefill_s)
            phase(number, Phase.DECODE, run.start_s + run.prefill_s, run.decode_s)
            _add_run(rows, number, run)
        if idle:
            phase(NONE, Phase.IDLE, runs[-1].end_s + 0.01, IDLE_S)
        for kind in (ChunkKind.RUNS, ChunkKind.PHASES, ChunkKind.TOKENS):
            builder.records(kind, rows_of(kind, rows[kind]))
        channels, samples = sample_records(series)
        for name, unit in (units or {}).items():
            channels["unit"][channels["kind"] == name.encode()] = unit.encode()
        builder.records(ChunkKind.CHANNELS, channels)
        builder.records(ChunkKind.SAMPLES, samples)
        data = builder.finish()
        return EnergyTrace(Trace.from_bytes(data), device, list(runs), data)

    def truth_j(self, site: str, phase: str) -> float:
        """Returns the exact energy of all runs: "total", "prefill" or "decode"."""
        total = 0.0
        for run in self.runs:
            middle = run.start_s + run.prefill_s
            start, end = {
                "total": (run.start_s, run.end_s),
                "prefill": (run.start_s, middle),
                "decode": (middle, run.end_s),
            }[phase]
            total += self.device.energy_j(site, start, end)
        return total


def _add_run(rows: dict[ChunkKind, list[dict[str, Any]]], number: int, run: Run) -> None:
    rows[ChunkKind.RUNS].append(
        {
            "run": number, "stop_reason": StopReason.LIMIT, "n_prompt": N_PROMPT, "n_output": N_OUTPUT, "n_threads": 2,
            "start_ns": ns(run.start_s), "duration_ns": ns(run.end_s) - ns(run.start_s),
            "prefill_ns": ns(run.prefill_s), "peak_rss_bytes": float(1 << 20),
        }
    )  # fmt: skip
    begin = run.start_s
    for index in range(N_OUTPUT):
        end = run.start_s + run.prefill_s + run.decode_s * index / (N_OUTPUT - 1)
        rows[ChunkKind.TOKENS].append(
            {
                "run": number, "index": index, "phase": Phase.DECODE if index else Phase.PREFILL, "token_id": 5,
                "n_tokens": 1 if index else N_PROMPT, "start_ns": ns(begin), "duration_ns": ns(end) - ns(begin),
            }
        )  # fmt: skip
        begin = end
