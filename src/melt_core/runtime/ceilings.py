"""The core's measurement of ceilings, as plain values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from melt_core.runtime.checks import checked_number
from melt_core.runtime.core import _core


@dataclass(frozen=True)
class RawCeiling:
    """One ceiling as the core gives it: bytes/s or flop/s."""

    kind: str
    name: str
    working_set_bytes: int
    n_threads: int
    best: float
    median: float
    n_rounds: int


@dataclass(frozen=True)
class RawCeilings:
    """All of them; `absent` as (kind, name, n_threads or 0, reason)."""

    ceilings: tuple[RawCeiling, ...]
    absent: tuple[tuple[str, str, int, str], ...]
    notes: tuple[str, ...]
    read_instructions: str
    pinned: bool


def measure_raw(
    *,
    thread_counts: list[int],
    pin_threads: bool,
    huge_pages: bool,
    sequential_reads: bool,
    measurement_s: float,
    max_memory_bytes: int,
    on_progress: Callable[[str, float], None] | None,
) -> RawCeilings:
    """Measures with the GIL released; 0 and empty stand for the core's own choice.

    Raises:
        InvalidArgumentError, OutOfMemoryError, RuntimeFailedError: As `melt_core.profiling.ceilings` says.
    """
    result = _core.measure_ceilings(
        thread_counts=[checked_number("a thread count", count, low=1) for count in thread_counts],
        pin_threads=pin_threads,
        huge_pages=huge_pages,
        sequential_reads=sequential_reads,
        measurement_s=measurement_s,
        max_memory_bytes=checked_number("max_memory_bytes", max_memory_bytes, high=2**63 - 1),
        on_progress=on_progress,
    )
    return RawCeilings(
        ceilings=tuple(
            RawCeiling(
                row.kind.name, row.name, row.working_set_bytes, row.n_threads, row.best, row.median, row.n_rounds
            )
            for row in result.ceilings
        ),
        absent=tuple((row.kind.name, row.name, row.n_threads, row.reason) for row in result.absent),
        notes=tuple(result.notes),
        read_instructions=result.read_instructions,
        pinned=result.pinned,
    )
