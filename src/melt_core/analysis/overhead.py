"""What recording itself costs, from interleaved pairs of the same step with op recording off and on.

Per pair the ratio is off_ns / on_ns: the rate with recording over the rate without (0.995: half a percent slower).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from melt_core.analysis.stats import MIN_PAIRS, median_interval
from melt_core.trace.format import ChunkKind, Phase

if TYPE_CHECKING:
    from melt_core.trace.trace import Trace

Interval = tuple[float, float]


@dataclass(frozen=True)
class Overhead:
    """Median ratio of rates, recorded over not recorded, with its bootstrap 95 % interval."""

    prefill_ratio: float | None
    decode_ratio: float | None
    prefill_ci95: Interval | None
    decode_ci95: Interval | None
    prefill_pairs: int
    decode_pairs: int
    n_pairs: int

    def reasons(self) -> dict[str, str]:
        """Returns, for each figure that is missing, why."""
        found = {}
        for phase in ("prefill", "decode"):
            pairs = getattr(self, f"{phase}_pairs")
            if getattr(self, f"{phase}_ratio") is None:
                found[f"overhead.{phase}_ratio"] = "no interleaved pair of steps was recorded"
            if getattr(self, f"{phase}_ci95") is None:
                found[f"overhead.{phase}_ci95"] = f"{pairs} pairs, and an interval needs at least {MIN_PAIRS}"
        return found


def overhead_of(trace: Trace, *, seed: int = 0) -> Overhead:
    """Returns the overhead of a trace; the interval's random draws come from `seed`."""
    pairs = trace.records(ChunkKind.OVERHEAD)
    ratios = {}
    for phase in (Phase.PREFILL, Phase.DECODE):
        rows = pairs[(pairs["phase"] == phase) & (pairs["on_ns"] > 0) & (pairs["off_ns"] > 0)]
        ratios[phase] = rows["off_ns"] / rows["on_ns"]
    prefill, decode = ratios[Phase.PREFILL], ratios[Phase.DECODE]
    return Overhead(
        prefill_ratio=float(np.median(prefill)) if len(prefill) else None,
        decode_ratio=float(np.median(decode)) if len(decode) else None,
        prefill_ci95=median_interval(prefill, seed=seed),
        decode_ci95=median_interval(decode, seed=seed),
        prefill_pairs=len(prefill),
        decode_pairs=len(decode),
        n_pairs=len(prefill) + len(decode),
    )
