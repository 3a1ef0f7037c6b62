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
_STEADY_FIGURES = ("ttft_ms", "prefill_tok_s", "decode_tok_s", "tpot_ms")


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
    for name in _STEADY_FIGURES:
        stat = figures.get(name)
        if stat is not None and stat.n > 1 and stat.spread_ratio > MAX_SPREAD_RATIO:
            warnings.append(f"{name} is unsteady: its IQR is {stat.spread_ratio:.0%} of the median over {stat.n} runs")
    if counts.dropped:
        kept = counts.records + counts.dropped
        warnings.append(f"{counts.dropped} of {kept} op records were dropped because a buffer was full")
    warnings += _conservation_warnings(conservation)
    warnings += _run_warnings(trace, measured)
    return warnings


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
    n_cpus = number(trace.metadata, "device", "n_cpus")
    if n_cpus is not None and n_threads > n_cpus > 0:
        warnings.append(f"{n_threads} threads on {n_cpus:.0f} processors: waiting at barriers dominates")
    n_stated = sum(runs["n_records"].tolist())
    n_present = sum(map(len, trace.chunks(ChunkKind.OPS)))
    if n_present < n_stated:
        warnings.append(f"{n_stated - n_present} of {n_stated} op records that were recorded are not in the file")
    return warnings
