"""When not to trust a number: the warnings a report shows before anyone compares, as pyperf does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from melt_core.analysis.conservation import Conservation
from melt_core.analysis.stats import Stat
from melt_core.trace.format import ChunkKind, StopReason
from melt_core.trace.metadata import number

if TYPE_CHECKING:
    from melt_core.trace.trace import Trace

MAX_SPREAD_RATIO = 0.10
MIN_RUNS = 3
MIN_CONSERVATION_RATIO = 0.995
#: Figures that should hardly differ between runs, as the summary names them.
_STEADY_FIGURES = {"ttft_ms": "TTFT", "prefill_tok_s": "prefill", "decode_tok_s": "decode", "tpot_ms": "TPOT"}
_ENOUGH_RUNS = 10


class _Counts(Protocol):
    @property
    def records(self) -> int: ...
    @property
    def dropped(self) -> int: ...


def stability_warnings(
    trace: Trace,
    figures: Mapping[str, Stat | None],
    counts: _Counts,
    conservation: Conservation,
    measured: NDArray[Any],
) -> list[str]:
    """Returns one line for each reason to distrust the figures of the measured runs."""
    warnings = []
    if 0 < len(measured) < MIN_RUNS:
        warnings.append(f"only {len(measured)} measured run(s): use repeats=5 or more to see the spread")
    warnings += _spread_warnings(figures)
    if counts.dropped:
        kept = counts.records + counts.dropped
        warnings.append(f"{counts.dropped} of {kept} op records were dropped because a buffer was full")
    warnings += _conservation_warnings(conservation)
    warnings += _run_warnings(trace, measured)
    return warnings


def _spread_warnings(figures: Mapping[str, Stat | None]) -> list[str]:
    """Returns one line for all figures that differ much between runs: they mostly do so together."""
    stats = {label: figures.get(name) for name, label in _STEADY_FIGURES.items()}
    unsteady = {
        label: stat
        for label, stat in stats.items()
        if stat is not None and stat.n > 1 and stat.spread_ratio > MAX_SPREAD_RATIO
    }
    if not unsteady:
        return []
    low, high = (f"{pick(stat.spread_ratio for stat in unsteady.values()) * 100:.0f}" for pick in (min, max))
    spread = f"{low} %" if low == high else f"{low} to {high} %"
    n_runs = max(stat.n for stat in unsteady.values())
    return [
        f"{', '.join(unsteady)} {'varies' if len(unsteady) == 1 else 'vary'} by {spread} (IQR / median, {n_runs} runs):"
        f" end other work, or use --repeats {max(_ENOUGH_RUNS, 2 * n_runs)}"
    ]


def _conservation_warnings(conservation: Conservation) -> list[str]:
    warnings = []
    if conservation.min is not None and conservation.min < MIN_CONSERVATION_RATIO:
        warnings.append(f"a graph's ops add up to {conservation.min:.2%} of its time only")
    if conservation.median is not None and conservation.median > 2 - MIN_CONSERVATION_RATIO:
        warnings.append(f"ops add up to {conservation.median:.2%} of graph time: they overlap, or a clock is off")
    if conservation.n_excluded:
        warnings.append(f"{conservation.n_excluded} graphs with lost records or aborted are not in the conservation")
    return warnings


def _run_warnings(trace: Trace, measured: NDArray[Any]) -> list[str]:
    runs = trace.records(ChunkKind.RUNS)
    picked = runs[measured]
    warnings = []
    cut_off = int(np.isin(picked["stop_reason"], (StopReason.CANCELLED, StopReason.ERROR)).sum())
    if cut_off:
        warnings.append(f"{cut_off} of the runs behind these figures were cancelled or failed before their end")
    n_threads = int(picked["n_threads"].max()) if len(picked) else 0
    usable = number(trace.metadata, "device", "n_cpus_allowed")
    n_cpus = number(trace.metadata, "device", "n_cpus") if usable is None else usable
    if n_cpus is not None and n_threads > n_cpus > 0:
        warnings.append(f"{n_threads} threads on {n_cpus:.0f} processors: waiting at barriers dominates")
    n_stated = sum(runs["n_records"].tolist())
    n_present = sum(map(len, trace.chunks(ChunkKind.OPS)))
    if n_present < n_stated:
        warnings.append(f"{n_stated - n_present} of {n_stated} op records that were recorded are not in the file")
    return warnings
