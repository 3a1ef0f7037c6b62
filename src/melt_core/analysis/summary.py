"""`Summary`: the key figures of a trace, each a `Stat` over the measured runs or missing with its reason.

Definitions are those of docs/measuring_honestly.md. Warm-up runs never count; runs that were cancelled or failed
count only where nothing else is there. What is missing is None here and null in JSON, with the reason under `missing`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from melt_core.analysis.checks import stability_warnings
from melt_core.analysis.conservation import Conservation, GraphGap, conservation_of, graph_gap_of
from melt_core.analysis.counters import CounterTotals, Disturbed, counter_warnings, counters_of, disturbed_of
from melt_core.analysis.interference import host_warnings
from melt_core.analysis.overhead import Overhead, overhead_of
from melt_core.analysis.stats import Stat
from melt_core.trace.format import RUN_WARMUP, ChunkKind, Phase, StopReason
from melt_core.trace.metadata import text
from melt_core.units import NS_PER_MS, ns_to_ms, per_second

if TYPE_CHECKING:
    from melt_core.trace.trace import Trace

Array = NDArray[Any]

_FIGURES = (
    "load_ms",
    "ttft_ms",
    "prefill_tok_s",
    "decode_tok_s",
    "tpot_ms",
    "itl_p50_ms",
    "itl_p95_ms",
    "itl_p99_ms",
)


@dataclass(frozen=True)
class OpCounts:
    """What the op level recorded in the measured runs."""

    graphs: int
    groups: int
    records: int
    dropped: int


@dataclass(frozen=True)
class Summary:
    """Key figures of one trace. `print()` shows them at 80 columns; `to_json()` gives medians as plain numbers."""

    model: str | None
    quantization: str | None
    runtime: str | None
    runtime_version: str | None
    device: str | None
    n_runs: int
    n_warmup: int
    n_threads: int | None
    n_prompt: int | None
    n_output: int | None
    load_ms: Stat | None
    ttft_ms: Stat | None
    prefill_tok_s: Stat | None
    decode_tok_s: Stat | None
    tpot_ms: Stat | None
    itl_p50_ms: Stat | None
    itl_p95_ms: Stat | None
    itl_p99_ms: Stat | None
    output_token_ids: tuple[int, ...]
    peak_rss_bytes: float | None
    ops: OpCounts
    conservation: Conservation
    graph_gap: GraphGap
    overhead: Overhead
    missing: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    disturbed: Disturbed | None = None
    counters: CounterTotals | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns the figures ready for JSON: medians as plain numbers, None where missing, with the reasons."""
        figures = {name: getattr(self, name) for name in _FIGURES}
        peak = self.peak_rss_bytes
        noted = {"disturbed": self.disturbed, "counters": self.counters}  # not in traces of before they were
        return {
            "model": self.model,
            "quantization": self.quantization,
            "runtime": self.runtime,
            "runtime_version": self.runtime_version,
            "device": self.device,
            "n_runs": self.n_runs,
            "n_warmup": self.n_warmup,
            "n_threads": self.n_threads,
            "n_prompt": self.n_prompt,
            "n_output": self.n_output,
            **{name: None if stat is None else stat.median for name, stat in figures.items()},
            "output_token_ids": list(self.output_token_ids),
            "peak_rss_bytes": None if peak is None else int(peak),
            "ops": vars(self.ops).copy(),
            "conservation": vars(self.conservation).copy(),
            "graph_gap": vars(self.graph_gap).copy(),
            "overhead": {
                name: list(value) if isinstance(value, tuple) else value for name, value in vars(self.overhead).items()
            },
            "stats": {
                name: None if stat is None else {"iqr": stat.iqr, "n": stat.n, "values": list(stat.values)}
                for name, stat in figures.items()
            },
            **{name: found.to_json() for name, found in noted.items() if found is not None},
            "missing": dict(self.missing),
            "warnings": list(self.warnings),
        }

    def __str__(self) -> str:
        """Returns the figures as text of at most 80 columns."""
        from melt_core.report.text import format_summary

        return format_summary(self)


def summarize(trace: Trace) -> Summary:
    """Returns the summary of a trace. Never raises for odd contents: what cannot be known is missing, with a reason."""
    measured = measured_runs(trace)
    series = list(_series_of_runs(trace, measured))
    figures = _figures(trace, series)
    overhead = overhead_of(trace)
    runs = trace.records(ChunkKind.RUNS)
    picked = runs[measured]
    conservation = conservation_of(trace, measured)
    gap = graph_gap_of(trace, measured)
    peak = _peak_rss_bytes(runs)
    counts = OpCounts(*(_total(picked[name]) for name in ("n_graphs", "n_groups", "n_records", "n_dropped")))
    metadata = trace.metadata
    missing = _missing(trace, figures, peak, conservation, overhead)
    disturbed = disturbed_of(trace, measured)
    return Summary(
        model=text(metadata, "model", "name") or text(metadata, "model", "path"),
        quantization=text(metadata, "model", "quantization"),
        runtime=text(metadata, "runtime", "name"),
        runtime_version=text(metadata, "runtime", "version") or text(metadata, "runtime", "commit"),
        device=text(metadata, "device", "cpu_model") or text(metadata, "device", "hostname"),
        n_runs=len(measured),
        n_warmup=int(np.count_nonzero(runs["flags"] & RUN_WARMUP)),
        n_threads=_greatest(picked["n_threads"]),
        n_prompt=_greatest(picked["n_prompt"]),
        n_output=_greatest(picked["n_output"]),
        **figures,
        output_token_ids=series[0].token_ids if series else (),
        peak_rss_bytes=peak,
        ops=counts,
        conservation=conservation,
        graph_gap=gap,
        overhead=overhead,
        missing=missing,
        warnings=(
            *trace.warnings,
            *stability_warnings(trace, figures, counts, conservation, measured),
            *host_warnings(trace, measured),
            *counter_warnings(trace, disturbed),
        ),
        disturbed=disturbed,
        counters=counters_of(trace),
    )


def measured_runs(trace: Trace) -> Array:
    """Returns the rows of the runs that count: no warm-up; whole ones, or else those that were cut off."""
    runs = trace.records(ChunkKind.RUNS)
    sound = runs["run"] == np.arange(len(runs))
    measured = np.flatnonzero(((runs["flags"] & RUN_WARMUP) == 0) & sound)
    broken = np.isin(runs["stop_reason"][measured], (StopReason.CANCELLED, StopReason.ERROR))
    return measured if broken.all() else measured[~broken]


@dataclass(frozen=True)
class RunSeries:
    """Output tokens of one run, kept ones only. `end_ns` is when each was known."""

    run: int
    n_prompt: int
    prefill_ns: int
    token_ids: tuple[int, ...]
    start_ns: Array
    end_ns: Array

    @property
    def ttft_ns(self) -> float:
        """Time to first token; NaN if there is none."""
        return float(self.end_ns[0]) - float(self.start_ns[0]) if len(self.end_ns) else float("nan")

    @property
    def itl_ms(self) -> Array:
        """Each inter-token latency."""
        return np.asarray(np.diff(self.end_ns) / NS_PER_MS)

    @property
    def decode_tok_s(self) -> float:
        """(n_out - 1) / (t_last - t_first); NaN for fewer than two tokens."""
        n_steps = len(self.end_ns) - 1
        return per_second(n_steps, float(self.end_ns[-1]) - float(self.end_ns[0])) if n_steps > 0 else float("nan")


def _series_of_runs(trace: Trace, measured: Array) -> Iterator[RunSeries]:
    runs, tokens = trace.records(ChunkKind.RUNS), trace.records(ChunkKind.TOKENS)
    order = np.argsort(tokens["run"], kind="stable")
    sorted_runs = tokens["run"][order]
    for run in measured.tolist():
        low, high = np.searchsorted(sorted_runs, [run, run + 1])
        steps = tokens[order[low:high]]
        steps = steps[np.argsort(steps["index"], kind="stable")]
        kept = steps[steps["index"] < runs["n_output"][run]]  # the end-of-text token is not part of the output
        yield RunSeries(
            run=run,
            n_prompt=int(runs["n_prompt"][run]),
            prefill_ns=int(runs["prefill_ns"][run]),
            token_ids=tuple(kept["token_id"].tolist()),
            start_ns=kept["start_ns"],
            end_ns=kept["start_ns"] + kept["duration_ns"],
        )


def run_series(trace: Trace) -> list[RunSeries]:
    """Returns the output tokens of each measured run."""
    return list(_series_of_runs(trace, measured_runs(trace)))


def _figures(trace: Trace, series: list[RunSeries]) -> dict[str, Stat | None]:
    phases = trace.records(ChunkKind.PHASES)
    loads = phases["duration_ns"][phases["phase"] == Phase.LOAD]
    latencies = [run.itl_ms for run in series if len(run.end_ns) > 1]
    figures = {
        "load_ms": Stat.of(ns_to_ms(time) for time in loads.tolist()),
        "ttft_ms": Stat.of(ns_to_ms(run.ttft_ns) for run in series),
        "prefill_tok_s": Stat.of(per_second(run.n_prompt, run.prefill_ns) for run in series if run.n_prompt),
        "decode_tok_s": Stat.of(run.decode_tok_s for run in series),
        "tpot_ms": Stat.of(float(itl.mean()) for itl in latencies),
    }
    for percent in (50, 95, 99):
        figures[f"itl_p{percent}_ms"] = Stat.of(float(np.percentile(itl, percent)) for itl in latencies)
    return figures


def _missing(
    trace: Trace,
    figures: Mapping[str, Stat | None],
    peak: float | None,
    conservation: Conservation,
    overhead: Overhead,
) -> dict[str, str]:
    runs = trace.records(ChunkKind.RUNS)
    no_runs = "the trace holds no runs" if not len(runs) else "the trace holds no measured run, only warm-up"
    has_runs = len(measured_runs(trace)) > 0
    reasons = {
        "load_ms": "the trace holds no load phase",
        "ttft_ms": "no output token was recorded",
        "prefill_tok_s": "no prefill time was recorded",
    }
    missing = {}
    for name, stat in figures.items():
        if stat is None:
            reason = reasons.get(name, "no run has two output tokens")
            missing[name] = reason if has_runs or name == "load_ms" else no_runs
    if peak is None:
        missing["peak_rss_bytes"] = "the system did not say, or there are no runs"
    for name in ("name", "path"):
        if text(trace.metadata, "model", name):
            break
    else:
        missing["model"] = "not in the trace's metadata"
    if not text(trace.metadata, "runtime", "name"):
        missing["runtime"] = "not in the trace's metadata"
    if conservation.median is None:
        missing["conservation"] = conservation.reason or "unknown"
    missing.update(overhead.reasons())
    return missing


def _peak_rss_bytes(runs: Array) -> float | None:
    peaks = runs["peak_rss_bytes"]
    peaks = peaks[np.isfinite(peaks)]
    return float(peaks.max()) if len(peaks) else None


def _total(column: Array) -> int:
    return sum(column.tolist())


def _greatest(column: Array) -> int | None:
    return int(column.max()) if len(column) else None
