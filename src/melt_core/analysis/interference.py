"""What the host did to the measured runs: stolen time, processes that waited, a changing frequency; as warnings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from melt_core.analysis.samples import Series, series_of
from melt_core.trace.format import ChunkKind
from melt_core.trace.metadata import number
from melt_core.units import NS_PER_S

if TYPE_CHECKING:
    from melt_core.trace.trace import Trace

MAX_STEAL_RATIO = 0.01  # of the time of all processors
MAX_CPU_PRESSURE_RATIO = 0.10  # of the time, some thread of this machine had to wait for a processor
MAX_MEMORY_PRESSURE_RATIO = 0.01
MAX_FREQUENCY_RATIO = 1.10  # highest / lowest


def host_warnings(trace: Trace, measured: NDArray[Any]) -> list[str]:
    """Returns one line for each way in which the host disturbed the measured runs; none without level memory."""
    if not len(trace.records(ChunkKind.CHANNELS)):
        return []
    runs = trace.records(ChunkKind.RUNS)[measured]
    spans = [(int(row["start_ns"]), int(row["start_ns"] + row["duration_ns"])) for row in runs]
    series = series_of(trace)
    n_cpus = number(trace.metadata, "device", "n_cpus") or 1.0
    warnings = []
    steal = _share(series.get("machine/steal"), spans) / n_cpus
    if steal > MAX_STEAL_RATIO:
        warnings.append(f"the hypervisor took {steal:.1%} of the processors' time during the runs (steal)")
    waiting = _share(series.get("machine/pressure_cpu"), spans)
    if waiting > MAX_CPU_PRESSURE_RATIO:
        warnings.append(f"for {waiting:.0%} of the runs some thread waited for a processor: other work ran here")
    stalled = _share(series.get("machine/pressure_memory"), spans)
    if stalled > MAX_MEMORY_PRESSURE_RATIO:
        warnings.append(f"for {stalled:.1%} of the runs some thread waited for memory: there is too little of it")
    return warnings + _frequency_warnings(series.get("cpu0/frequency"), spans)


def _share(counter: Series | None, spans: Sequence[tuple[int, int]]) -> float:
    """Returns growth of a counter of seconds within the spans / the time between its readings; NaN: not known."""
    if counter is None:
        return float("nan")
    grown, covered = 0.0, 0.0
    for start_ns, end_ns in spans:
        found = counter.between(start_ns, end_ns)
        if len(found.values) > 1:
            grown += found.growth(start_ns, end_ns)
            covered += float(found.time_ns[-1] - found.time_ns[0]) / NS_PER_S
    return grown / covered if covered > 0 else float("nan")


def _frequency_warnings(frequency: Series | None, spans: Sequence[tuple[int, int]]) -> list[str]:
    if frequency is None or not spans:
        return []
    seen = np.concatenate([frequency.between(*span).values for span in spans])
    seen = seen[seen > 0]
    if not len(seen) or seen.max() <= MAX_FREQUENCY_RATIO * seen.min():
        return []
    return [f"cpu0 ran between {seen.min() / 1e9:.2f} and {seen.max() / 1e9:.2f} GHz during the runs"]
