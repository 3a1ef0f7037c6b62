"""Where a process's memory went: the runtime's buffers, heap, program, and what no one can explain, as its own row.

Buffers come from the runtime's own allocations, what of them is resident from the page table. Every other page is the
model file's, the program's (there before the load, or of a file), or, if it came since the load, the heap's as far as
malloc took memory since (docs/memory.md). All are read when the last run had ended, and no page is in two rows; what
they do not add up to is `unaccounted`, never hidden in another row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from melt_core.analysis.samples import Series, series_of
from melt_core.errors import TraceError
from melt_core.trace.format import ChunkKind, MemoryCategory, MemoryEvent, Phase
from melt_core.trace.metadata import number

if TYPE_CHECKING:
    from melt_core.trace.trace import Trace

_CAME = (MemoryEvent.ALLOCATED, MemoryEvent.MAPPED)


@dataclass(frozen=True)
class MemoryRow:
    """One row of the truth table. None: not known, or it means nothing for this row.

    Attributes:
        category: weights, repack, kv, compute, output, other: buffers of the runtime; model_file: pages of the mapped
            file that belong to no buffer; heap; program; unaccounted; process: all of them, as the system counts.
        bytes: Reserved when the last run had ended.
        resident_bytes: Of those in RAM.
        peak_bytes: The most there ever was: reserved for buffers, resident for the process.
        source: Where the figures come from.
    """

    category: str
    bytes: float | None
    resident_bytes: float | None
    peak_bytes: float | None
    source: str

    def to_json(self) -> dict[str, Any]:
        """Returns the row with whole bytes."""
        sizes = {name: getattr(self, name) for name in ("bytes", "resident_bytes", "peak_bytes")}
        whole = {name: None if size is None else round(size) for name, size in sizes.items()}
        return {"category": self.category, **whole, "source": self.source}


@dataclass(frozen=True)
class MemoryAccount:
    """The truth table of a trace.

    Attributes:
        rows: Buffers first, `unaccounted` and `process` last.
        unaccounted_ratio: Unaccounted / RSS of the process; None where either is not known.
        phase_peak_rss_bytes: Highest sample of the RSS within the phases of that name.
        missing: What is not known, and why.
    """

    rows: tuple[MemoryRow, ...]
    unaccounted_ratio: float | None
    phase_peak_rss_bytes: Mapping[str, float]
    missing: Mapping[str, str]


def has_memory(trace: Trace) -> bool:
    """Returns whether the trace was recorded with level memory."""
    of_process = trace.records(ChunkKind.CHANNELS)["site"] == b"process"
    return bool(len(trace.records(ChunkKind.ALLOCATIONS)) or of_process.any())


def memory_of(trace: Trace) -> MemoryAccount:
    """Returns the truth table.

    Raises:
        TraceError: The trace was recorded without the level memory.
    """
    if not has_memory(trace):
        name = trace.path or "the trace"
        raise TraceError(f"{name} was recorded without level memory: profile with --levels tokens,memory")
    series = series_of(trace)
    missing = _reasons(trace)
    held = {name: found.last for name, found in series.items()}
    rss = _known(held.get("process/rss_after_run"))
    at_ns = _last_time(series.get("process/rss_after_run"))
    usage = live_bytes(trace)
    rows = [_buffer_row(name, times, sizes, held, at_ns) for name, (times, sizes) in usage.items()]
    rows += [_file_row(held), _heap_row(trace, held, at_ns), _program_row(held)]
    rows = [row for row in rows if (row.bytes, row.resident_bytes, row.peak_bytes) != (None, None, None)]
    explained = sum(row.resident_bytes or 0.0 for row in rows)
    rest = None if rss is None or "program" not in {row.category for row in rows} else rss - explained
    rows.append(MemoryRow("unaccounted", None, rest, None, "process - all rows above"))
    rows.append(MemoryRow("process", None, rss, _peak_rss(trace), "/proc/self/statm; peak: VmHWM"))
    ratio = None if rest is None or not rss else rest / rss
    return MemoryAccount(tuple(rows), ratio, _phase_peaks(trace, series.get("process/rss")), missing)


def live_bytes(trace: Trace) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
    """Returns, per category that has buffers, when its size changed (ns) and to how many bytes."""
    rows = trace.records(ChunkKind.ALLOCATIONS)
    rows = rows[np.argsort(rows["time_ns"], kind="stable")]
    change = np.where(np.isin(rows["event"], _CAME), 1.0, -1.0) * rows["bytes"].astype(np.float64)
    known = {int(member): member.name.lower() for member in MemoryCategory}
    names = np.array([known.get(category, "other") for category in rows["category"].tolist()], object)
    found = {}
    for member in MemoryCategory:
        own = names == member.name.lower()
        if own.any():
            found[member.name.lower()] = (rows["time_ns"][own], np.cumsum(change[own]))
    return found


def _buffer_row(
    name: str, times: NDArray[Any], sizes: NDArray[Any], held: Mapping[str, float], at_ns: int | None
) -> MemoryRow:
    before = sizes if at_ns is None else sizes[times <= at_ns]
    now = float(before[-1]) if len(before) else 0.0
    resident = _known(held.get(f"buffers/{name}/resident"))
    return MemoryRow(name, now, resident, float(sizes.max()), "runtime; resident: pagemap")


def _anonymous_bytes(trace: Trace, at_ns: int | None) -> float:
    """Returns the bytes of live buffers that malloc gave, so that the heap does not count them again."""
    rows = trace.records(ChunkKind.ALLOCATIONS)
    rows = rows if at_ns is None else rows[rows["time_ns"] <= at_ns]
    sizes = rows["bytes"].astype(np.float64)
    came, gone = rows["event"] == MemoryEvent.ALLOCATED, rows["event"] == MemoryEvent.RELEASED
    return float(sizes[came].sum() - sizes[gone].sum())


def _file_row(held: Mapping[str, float]) -> MemoryRow:
    resident = _known(held.get("model_file/resident"))
    return MemoryRow("model_file", None, resident, None, "mapped, in no buffer: /proc/self/smaps")


def _heap_row(trace: Trace, held: Mapping[str, float], at_ns: int | None) -> MemoryRow:
    """Returns the pages that malloc took since the load, and how much it reserved.

    What it reserved is known from what it has from the system, unless it gave out again what it had before.
    """
    resident = _known(held.get("heap/resident"))
    now, before = _known(held.get("process/heap_after_run")), number(trace.metadata, "memory", "heap_before_load_bytes")
    size = None if now is None or before is None else now - before - _anonymous_bytes(trace, at_ns)
    if size is not None and size < (resident or 0.0):
        size = None
    return MemoryRow("heap", size, resident, None, "came since load: pagemap, mallinfo2")


def _program_row(held: Mapping[str, float]) -> MemoryRow:
    resident = _known(held.get("program/resident"))
    return MemoryRow("program", None, resident, None, "there before load, and code: pagemap")


def _known(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)


def _last_time(series: Series | None) -> int | None:
    return int(series.time_ns[-1]) if series is not None and len(series.time_ns) else None


def _peak_rss(trace: Trace) -> float | None:
    peaks = trace.records(ChunkKind.RUNS)["peak_rss_bytes"]
    peaks = peaks[np.isfinite(peaks)]
    return float(peaks.max()) if len(peaks) else None


def _phase_peaks(trace: Trace, rss: Series | None) -> dict[str, float]:
    if rss is None:
        return {}
    names = {int(phase): phase.name.lower() for phase in Phase}
    peaks: dict[str, float] = {}
    for row in trace.records(ChunkKind.PHASES):
        start_ns = int(row["start_ns"])
        values = rss.between(start_ns, start_ns + int(row["duration_ns"])).values
        name = names.get(int(row["phase"]))
        if len(values) and name is not None:
            peaks[name] = max(peaks.get(name, 0.0), float(values.max()))
    return peaks


def _reasons(trace: Trace) -> dict[str, str]:
    sensors = trace.metadata.get("sensors")
    missing = sensors.get("missing") if isinstance(sensors, Mapping) else None
    return {str(name): str(reason) for name, reason in missing.items()} if isinstance(missing, Mapping) else {}
